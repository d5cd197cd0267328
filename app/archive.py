"""Archive: uploaded images, loose or in zip files (PKWARE's APPNOTE.TXT), one by one.

A name is only ever a label: what leaves a zip file lies on disk under a number. No Gradio here.
"""

import io
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.files import CHUNK
from cxr_mm.data.studies import BadRow
from cxr_mm.imaging.dicom import is_dicom
from cxr_mm.imaging.image_header import JPEG_START, PNG_SIGNATURE

FILES = 500
"""Most files that are taken at once."""
FILE_BYTES = 64 * 1024**2
"""Largest file, as handed in and as inflated."""
ALL_BYTES = 1024**3
"""Most that all zip files together may inflate to."""
RATIO = 100
"""How many times its own size a zip file may inflate to."""
ENTRIES = 4 * FILES
"""Most entries of a zip file, with its folders and what is passed over."""
LONGEST_NAME = 200
ZIP_STARTS = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08")
DIRECTORY_ENTRY = b"PK\x01\x02"
READ = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
"""Compressions that are read; of the others one may ask for gigabytes to inflate a byte."""
ENCRYPTED = 0x1
UNREADABLE = (
    EOFError,
    NotImplementedError,
    OSError,
    RuntimeError,
    ValueError,
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
)
"""What zipfile raises on a zip file in memory that is damaged or made to deceive."""


@dataclass(frozen=True)
class Item:
    """An uploaded file.

    Args:
        name: as a person knows it, with its folders in the zip file; printable, for show only.
        path: where it can be read as long as the upload is open.
    """

    name: str
    path: Path


@dataclass(frozen=True)
class Upload:
    """An upload.

    Args:
        images: files that may be images; of each only the first bytes have been looked at.
        table: the CSV, where there is one.
        refused: files that were not taken, by name, and why.
    """

    images: tuple[Item, ...]
    table: Item | None
    refused: tuple[BadRow, ...]


@contextmanager
def opened(paths: Iterable[Path]) -> Iterator[Upload]:
    """Unpack an upload; the unpacked files are removed when the context ends.

    The first bytes of a file decide what it is; the CSV alone is known by its name.

    Args:
        paths: images, zip files, and at most one CSV, loose or in a zip file.

    Raises:
        InputError: a zip file is damaged or inflates too far, there are too many files, or there is
            more than one CSV.
    """
    with tempfile.TemporaryDirectory(prefix="cxr-mm-worklist-") as folder:
        unpacked = _Unpacked(Path(folder))
        for path in paths:
            unpacked.add(path)
        yield unpacked.upload()


class _Unpacked:
    """Files as they are taken, and how much has been inflated for them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images: dict[str, Item] = {}
        self.tables: list[Item] = []
        self.refused: list[BadRow] = []
        self.inflated = 0

    def upload(self) -> Upload:
        if len(self.tables) > 1:
            names = ", ".join(table.name for table in self.tables)
            raise InputError(f"there is more than one CSV ({names})", remedy="Give one")
        table = self.tables[0] if self.tables else None
        return Upload(tuple(self.images.values()), table, tuple(self.refused))

    def add(self, path: Path) -> None:
        if path.stat().st_size > FILE_BYTES:
            self._refuse(path.name, _too_large())
        elif _start(path).startswith(ZIP_STARTS):
            self._unzip(path)
        else:
            self._take(path.name, path)

    def _take(self, name: str, path: Path) -> None:
        item = Item(_label(name), path)
        if item.name.lower().endswith(".csv") and not _is_image(_start(path)):
            self.tables.append(item)
        elif item.name in self.images:
            self._refuse(name, RadiographError("another image has this name", remedy="Rename one"))
        else:
            self.images[item.name] = item
        self._check_count()

    def _refuse(self, name: str, reason: RadiographError) -> None:
        self.refused.append(BadRow(_label(name), str(reason)))
        self._check_count()

    def _count(self) -> int:
        return len(self.images) + len(self.tables) + len(self.refused)

    def _check_count(self) -> None:
        if self._count() > FILES:
            raise InputError(f"there are more than {FILES} files", remedy="Give them in parts")

    def _unzip(self, path: Path) -> None:
        data, name = path.read_bytes(), _label(path.name)
        if data.count(DIRECTORY_ENTRY) > ENTRIES:  # before zipfile makes an object of each
            raise InputError(
                f"it has more than {ENTRIES} entries", field=name, remedy="Give it in parts"
            )
        try:
            archive = zipfile.ZipFile(io.BytesIO(data))
        except UNREADABLE as error:
            raise InputError(
                "the zip file is damaged or cut short", field=name, remedy="Make it again"
            ) from error
        most = self.inflated + RATIO * len(data)
        with archive:
            for entry in archive.infolist():
                if not _passed_over(entry):
                    self._member(archive, entry)
                if self.inflated > min(most, ALL_BYTES):
                    raise InputError(
                        f"it inflates to more than {RATIO} times its size, or with the others to "
                        f"more than {ALL_BYTES // 1024**2} MiB",
                        field=name,
                        remedy="Give fewer images at once",
                    )

    def _member(self, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
        target = self.folder / str(self._count())
        try:
            _check(entry)
            with target.open("wb") as out:
                for chunk in _chunks(archive, entry):
                    self.inflated += len(chunk)
                    out.write(chunk)
        except RadiographError as error:
            self._refuse(entry.filename, error)
        else:
            self._take(entry.filename, target)


def _chunks(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Iterator[bytes]:
    """What a member inflates to; the size in its headers is not trusted."""
    size = 0
    try:
        with archive.open(entry) as stream:
            while chunk := stream.read(CHUNK):
                if not size and chunk.startswith(ZIP_STARTS):
                    raise RadiographError("a zip file in a zip file", remedy="Unpack it first")
                size += len(chunk)
                yield chunk
                if size > FILE_BYTES:
                    raise _too_large()
    except UNREADABLE as error:
        raise RadiographError(
            "damaged within the zip file", remedy="Make the zip file again"
        ) from error


def _passed_over(entry: zipfile.ZipInfo) -> bool:
    """Whether it is a folder, or a file that an operating system adds."""
    parts = PureWindowsPath(entry.filename).parts
    hidden = (part == "__MACOSX" or (part[0] == "." and part != "..") for part in parts)
    return not parts or entry.is_dir() or any(hidden)


def _check(entry: zipfile.ZipInfo) -> None:
    """Check a member before it is read.

    Raises:
        RadiographError: it leads out of the zip file, is no plain file, or cannot be read.
    """
    path = PureWindowsPath(entry.filename)  # knows drives, and both kinds of slash
    if path.anchor or ".." in path.parts:
        raise RadiographError("its path leads out of the zip file", remedy="Zip a plain folder")
    if stat.S_IFMT(entry.external_attr >> 16) not in (0, stat.S_IFREG):
        raise RadiographError("a link or device, not a file", remedy="Zip the image itself")
    if entry.flag_bits & ENCRYPTED:
        raise RadiographError("it is encrypted", remedy="Make the zip file without a password")
    if entry.compress_type not in READ:
        raise RadiographError("its compression is not read", remedy="Use deflate or none")


def _too_large() -> RadiographError:
    return RadiographError(
        f"it is larger than {FILE_BYTES // 1024**2} MiB", remedy="Export the image smaller"
    )


def _is_image(start: bytes) -> bool:
    return is_dicom(start) or start.startswith((PNG_SIGNATURE, JPEG_START))


def _start(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(256)


def _label(name: str) -> str:
    """The name without what would not show or would change how the rest is shown."""
    return "".join(c if c.isprintable() else "�" for c in name)[-LONGEST_NAME:]
