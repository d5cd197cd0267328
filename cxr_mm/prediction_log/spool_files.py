"""Spool files: records that wait for the database, one a line (JSON Lines behind a checksum).

A file belongs to the process that has it locked (flock), and to nobody once that process has
ended, however it ended; then another may take it over.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pydantic import ValidationError

from cxr_mm.contracts.record import Outcome, PredictionRecord, ServiceEvent, random_id

Kept = PredictionRecord | Outcome | ServiceEvent
CONTRACTS: dict[str, type[Kept]] = {
    "prediction": PredictionRecord,
    "outcome": Outcome,
    "event": ServiceEvent,
}
OWNER_ALONE = 0o600


def encoded(kept: Kept) -> bytes:
    """A record, outcome or event as a line: checksum, blank, JSON."""
    contract = next(name for name, each in CONTRACTS.items() if isinstance(kept, each))
    body = json.dumps({"contract": contract, **kept.model_dump(mode="json")}).encode()
    return _checksum(body) + b" " + body


def decoded(line: bytes) -> Kept | None:
    """What a line holds; None where it is cut short, altered or of another version."""
    checksum, _, body = line.partition(b" ")
    if checksum != _checksum(body):
        return None
    fields = json.loads(body)
    # Lines of the version before events say `kind`, which is now a field of an event.
    contract = CONTRACTS.get(fields.pop("contract", None) or fields.pop("kind", ""))
    try:
        return contract.model_validate(fields) if contract else None
    except ValidationError:
        return None


class SpoolFile:
    """One file of lines, locked as long as it is open.

    What it holds can be read even where the file was removed from its folder.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self.count = sum(1 for _ in self.read())
        """Lines that it holds."""

    @classmethod
    def begun(cls, folder: Path) -> Self:
        """A new file for its owner alone; names sort by the time of making.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{time.time_ns():020d}-{random_id()}.jsonl"
        # It gets its name when it is locked, so that nobody takes it over before.
        unnamed = path.with_suffix(".new")
        handle = os.open(unnamed, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_EXCL, OWNER_ALONE)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            unnamed.rename(path)
            _sync_folder(folder)
            return cls(path, handle)
        except OSError:
            os.close(handle)
            raise

    @classmethod
    def taken_over(cls, path: Path) -> Self | None:
        """A file that nobody has; None where a process has it, or it cannot be had."""
        try:
            handle = os.open(path, os.O_RDWR | os.O_APPEND)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(handle).st_nlink:
                return cls(path, handle)
        except BlockingIOError:
            pass
        os.close(handle)
        return None

    @property
    def gone(self) -> bool:
        """Whether the file was removed from its folder."""
        return os.fstat(self._handle).st_nlink == 0

    def append(self, lines: Sequence[bytes]) -> None:
        """Write lines, all of them or none; when this returns they are on disk.

        Raises:
            OSError: they cannot be written.
        """
        before = os.fstat(self._handle).st_size
        # A line break on both sides: a line that a crash cut short spoils no other.
        rest = memoryview(b"".join(b"\n" + line + b"\n" for line in lines))
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, before)
            raise
        self.count += len(lines)

    def read(self) -> Iterator[bytes]:
        """Its lines, in order."""
        with os.fdopen(os.dup(self._handle), "rb") as stream:
            stream.seek(0)
            for line in stream:
                if line := line.strip(b"\n"):
                    yield line

    def remove(self) -> None:
        """Take the file away: what it held is kept elsewhere."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Leave the file to whoever takes it over."""
        os.close(self._handle)


class Spool:
    """The files of one folder that this process has, oldest first; not safe for threads by itself.

    Args:
        folder: one for each log; made for its owner alone.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        SpoolFile.begun(folder).remove()  # better found out now than when the database is away
        self.folder = folder
        self.aside = folder / "set_aside.txt"
        """Lines that cannot be brought into the log, for a person to look at."""
        self._files = _free_files(folder)
        self._writing: SpoolFile | None = None

    @property
    def waiting(self) -> int:
        """Lines in its files."""
        return sum(file.count for file in self._files)

    def append(self, lines: Sequence[bytes]) -> None:
        """Add lines at the end, all of them or none; when this returns they are on disk.

        Raises:
            OSError: they cannot be written.
        """
        if self._writing is None or self._writing.gone:
            self._writing = SpoolFile.begun(self.folder)
            self._files.append(self._writing)
        self._writing.append(lines)

    def take_over(self) -> None:
        """Take the files of processes that have ended."""
        self._files = sorted([*self._files, *_free_files(self.folder)], key=lambda f: f.path.name)

    def oldest(self) -> SpoolFile | None:
        """The file to bring in first, to which nothing is added any more; None where there is none.

        It stays until it is dropped.
        """
        if not self._files:
            return None
        if self._files[0] is self._writing:
            self._writing = None
        return self._files[0]

    def drop(self, file: SpoolFile) -> None:
        """Take a file away whose lines are all kept elsewhere."""
        file.remove()
        self._files.remove(file)

    def set_aside(self, lines: Sequence[bytes]) -> None:
        """Keep lines that cannot be brought in where nobody tries them again.

        Raises:
            OSError: it cannot be written.
        """
        handle = os.open(self.aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OWNER_ALONE)
        with os.fdopen(handle, "wb") as stream:
            stream.write(b"".join(line + b"\n" for line in lines))
            stream.flush()
            os.fsync(handle)

    def close(self) -> None:
        """Leave every file to whoever takes it over."""
        for file in self._files:
            file.close()
        self._files, self._writing = [], None


def _free_files(folder: Path) -> list[SpoolFile]:
    """The files that nobody has, oldest first, each taken over."""
    paths = sorted(folder.glob("*.jsonl"))
    return [file for path in paths if (file := SpoolFile.taken_over(path)) is not None]


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _sync_folder(folder: Path) -> None:
    """Bring the folder's entries to disk, or a power cut takes a new file's name away."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
