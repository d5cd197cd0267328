"""Stores: files in a folder or in an object store (S3, Google Cloud Storage, Azure), by one class.

Credentials, region and endpoint are those of the store's own environment variables and files
(AWS_ACCESS_KEY_ID, AWS_ENDPOINT_URL, GOOGLE_APPLICATION_CREDENTIALS, AZURE_STORAGE_ACCOUNT_NAME).
"""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

from cxr_mm.core.errors import CxrError, StorageError
from cxr_mm.core.files import atomic_write, check_writable, to_json

SCHEME = re.compile(r"([a-z][a-z0-9+]+)://", re.IGNORECASE)
EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs", "az": "azure", "abfs": "azure"}
"""Scheme → extra whose package reads it."""
SCHEMES = (*EXTRAS, "file")
CLIENTS = {"aiohttp", "azure", "botocore", "fsspec", "gcsfs", "google"}
"""Packages of those stores whose errors are faults of a store."""
Place = Path | str
"""A path, or a URL as text."""


def is_url(text: str) -> bool:
    """Whether the place of a file is a URL, not a path."""
    return SCHEME.match(text) is not None


def place_of(text: str) -> Place:
    """Where a file is: a path, or a URL as it is."""
    return text if is_url(text) else Path(text)


def name_of(place: Place) -> str:
    """Last part of a path or URL."""
    return str(place).rstrip("/").rpartition("/")[2]


def scheme_of(url: str) -> str:
    """Scheme of a URL in lower case; empty without one."""
    found = SCHEME.match(url)
    return found[1].lower() if found else ""


def system_of(url: str) -> tuple[Any, str]:
    """The file system of fsspec that a URL is of, and the path there; no listing is kept."""
    import fsspec  # takes its time, and most commands need none

    system, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
    return system, path


def trouble(url: str, error: Exception) -> tuple[str, str]:
    """Say why an object cannot be had now: no package, permission or network; and the remedy.

    An error of the program is raised as it is.
    """
    if not _is_fault(error):
        raise error
    if isinstance(error, ImportError):
        extra = EXTRAS.get(scheme_of(url), scheme_of(url))
        return (
            f"nothing is installed that reads {scheme_of(url)}",
            f"Install it: pip install 'cxr-mm[{extra}]'",
        )
    if isinstance(error, PermissionError) or "Credential" in type(error).__name__:
        return "no permission for it", "Check the credentials and their rights"
    if isinstance(error, FileNotFoundError):
        return "there is no such bucket or object", "Check the URL, or make the bucket"
    return (
        f"the store cannot be reached ({type(error).__name__})",
        "Check network and endpoint, and give the command again",
    )


def _is_fault(error: Exception) -> bool:
    """Whether an error is of a store, its package, its settings or its URL, not of the program.

    Few file systems of fsspec turn what their store's client raises into an OSError.
    """
    if isinstance(error, OSError | ImportError | ValueError):  # settings and URLs are ValueErrors
        return True
    return any(kind.__module__.partition(".")[0] in CLIENTS for kind in type(error).__mro__)


@dataclass(frozen=True)
class Store:
    """A folder, on disk or in an object store, whose files appear whole or not at all.

    Args:
        root: absolute path of the folder, or its URL.
    """

    root: str

    @classmethod
    def at(cls, place: Place) -> Self:
        """The store of a path or URL.

        Raises:
            StorageError: it is a URL of no store that is known.
        """
        text = str(place)
        if not is_url(text):
            return cls(str(Path(text).absolute()))
        if scheme_of(text) not in SCHEMES:
            raise StorageError(
                f"nothing is written by {scheme_of(text)}",
                field=text,
                remedy=f"Use {', '.join(SCHEMES)}",
            )
        return cls(text.rstrip("/").removeprefix("file://"))

    @property
    def folder(self) -> Path | None:
        """The folder; None where it is in an object store."""
        return None if is_url(self.root) else Path(self.root)

    def path(self, name: str) -> str:
        """Path or URL of a file."""
        return f"{self.root}/{name}"

    def exists(self, name: str) -> bool:
        """Whether a file is there."""
        with self._system(name) as (system, path):
            return bool(system.exists(path))

    def names(self, folder: str = "") -> list[str]:
        """Names of what is in the store, or in a folder of it; empty where that is not there."""
        with self._system(folder) as (system, path):
            if not system.isdir(path):
                return []
            return sorted(each.rstrip("/").rpartition("/")[2] for each in system.ls(path, False))

    def read(self, name: str) -> bytes:
        """Read a file as a whole."""
        with self._system(name) as (system, path):
            return bytes(system.cat_file(path))

    def open(self, name: str) -> BinaryIO:
        """Open a file, of which parts are read."""
        with self._system(name) as (system, path):
            stream: BinaryIO = system.open(path, "rb")
            return stream

    def write(self, name: str, content: bytes) -> None:
        """Write a file; an earlier one is replaced.

        Raises:
            StorageError: it cannot be written.
        """
        if self.folder:
            with atomic_write(self.folder / name) as aside:
                aside.write_bytes(content)
            return
        with self._system(name) as (system, path):
            system.pipe_file(path, content)  # an object is put as a whole

    def write_json(self, name: str, value: Any) -> None:
        """Write JSON as `to_json` does."""
        self.write(name, to_json(value).encode())

    def read_json(self, name: str) -> Any:
        """Read JSON."""
        return json.loads(self.read(name))

    @contextmanager
    def writing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path for a file too large for memory, which then becomes `name`.

        Raises:
            StorageError: it cannot be written.
        """
        if self.folder:
            with atomic_write(self.folder / name) as aside:
                yield aside
            return
        with tempfile.TemporaryDirectory() as folder:
            aside = Path(folder) / "file"
            yield aside
            with self._system(name) as (system, path):
                system.put_file(str(aside), path)

    def check_writable(self, name: str) -> None:
        """Check before long work that a file can be written.

        Raises:
            StorageError: it cannot.
        """
        if self.folder:
            check_writable(self.folder / name)
            return
        with self._system(f".{name}") as (system, path):
            system.pipe_file(path, b"")
            system.rm_file(path)

    @contextmanager
    def _system(self, name: str) -> Iterator[tuple[Any, str]]:
        """The file system and the path of a file in it, with typed errors of an object store."""
        try:
            yield system_of(self.path(name) if name else self.root)
        except CxrError:
            raise
        except Exception as error:
            if self.folder:
                raise
            message, remedy = trouble(self.root, error)
            raise StorageError(message, field=self.path(name), remedy=remedy) from error
