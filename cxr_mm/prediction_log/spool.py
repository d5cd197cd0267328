"""SpooledLog: a prediction log that stores records on disk while its database is unavailable.

A thread replays them into the database, so that no prediction waits for it. The database accepts
each id once: a replay that was killed halfway is repeated.
"""

import fcntl
import hashlib
import json
import os
import re
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ValidationError
from sqlalchemy import Table

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import Outcome, PredictionRecord, ServiceEvent, random_id
from cxr_mm.prediction_log.database import (
    checked_url,
    find_secret,
    is_refused,
    is_unavailable,
    sqlite_file,
)
from cxr_mm.prediction_log.log import PredictionLog
from cxr_mm.prediction_log.schema import EVENTS, OUTCOMES, PREDICTIONS

CONTRACTS: dict[str, type[BaseModel]] = {
    "prediction": PredictionRecord,
    "outcome": Outcome,
    "event": ServiceEvent,
}
TABLES = {"prediction": PREDICTIONS, "outcome": OUTCOMES, "event": EVENTS}
OWNER_ALONE = 0o600


def encoded(stored: BaseModel) -> bytes:
    """A record, outcome or event as a line: checksum, blank, JSON."""
    contract = next(name for name, each in CONTRACTS.items() if isinstance(stored, each))
    body = json.dumps({"contract": contract, **stored.model_dump(mode="json")}).encode()
    return _checksum(body) + b" " + body


def decoded(line: bytes) -> BaseModel | None:
    """Content of a line; None where it is cut short, changed or of another version."""
    checksum, _, body = line.partition(b" ")
    if checksum != _checksum(body):
        return None
    fields = json.loads(body)
    contract = CONTRACTS.get(fields.pop("contract", ""))
    try:
        return contract.model_validate(fields) if contract else None
    except ValidationError:
        return None


class SpoolFile:
    """One file of lines, locked as long as it is open.

    It can be read even after the file was removed from its folder.
    """

    def __init__(self, path: Path, handle: int) -> None:
        self.path, self._handle = path, handle
        self.count = sum(1 for _ in self.read())
        """Number of lines."""

    @classmethod
    def begun(cls, folder: Path) -> Self:
        """A new file for its owner alone; names sort by the time of making.

        Raises:
            OSError: it cannot be made.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = folder / f"{time.time_ns():020d}-{random_id()}.jsonl"
        # It gets its name when it is locked, so that no one takes it over before.
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
        """Take over a file; None where another process has it, or it cannot be opened."""
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
        """Delete the file, whose lines are stored elsewhere."""
        self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        """Close the file; another process may take it over."""
        os.close(self._handle)


class Spool:
    """The files of one folder that this process has, oldest first; not safe for threads by itself.

    Args:
        folder: one for each log; made for its owner alone.

    Raises:
        OSError: nothing can be written there.
    """

    def __init__(self, folder: Path) -> None:
        SpoolFile.begun(folder).remove()  # fail now rather than when the database is unavailable
        self.folder = folder
        self.aside = folder / "set_aside.txt"
        """Lines that the log refuses, for a person to inspect."""
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
        """The oldest file, which is closed for writing; None if there is no file.

        It stays until it is dropped.
        """
        if not self._files:
            return None
        if self._files[0] is self._writing:
            self._writing = None
        return self._files[0]

    def drop(self, file: SpoolFile) -> None:
        """Delete a file whose lines are all stored elsewhere."""
        file.remove()
        self._files.remove(file)

    def set_aside(self, lines: Sequence[bytes]) -> None:
        """Store refused lines where they are not replayed again.

        Raises:
            OSError: it cannot be written.
        """
        handle = os.open(self.aside, os.O_WRONLY | os.O_APPEND | os.O_CREAT, OWNER_ALONE)
        with os.fdopen(handle, "wb") as stream:
            stream.write(b"".join(line + b"\n" for line in lines))
            stream.flush()
            os.fsync(handle)

    def close(self) -> None:
        """Close every file; another process may take them over."""
        for file in self._files:
            file.close()
        self._files, self._writing = [], None


def _free_files(folder: Path) -> list[SpoolFile]:
    """Files without an owner, oldest first, each taken over."""
    paths = sorted(folder.glob("*.jsonl"))
    return [file for path in paths if (file := SpoolFile.taken_over(path)) is not None]


def _checksum(body: bytes) -> bytes:
    return hashlib.sha256(body).hexdigest()[:16].encode()


def _sync_folder(folder: Path) -> None:
    """Flush the folder's entries to disk, so that a new file survives a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


WAIT_SECONDS = 2.0
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 10.0
BATCH = 200


class SpooledLog(PredictionLog):
    """A prediction log that writes to a spool while its database is unavailable.

    When a call returns, the record is on disk, in the database or in the spool. Reading needs the
    database.

    Args:
        url: as PredictionLog.
        secret: likewise.
        folder: of the spool, one for each log; default: `spool_folder`.
        wait: seconds that a write to SQLite waits for another before it goes to the spool.
        retry: seconds between two replays of the spool.
        site: as PredictionLog.

    Raises:
        LogError: as PredictionLog, except that the database may be unavailable; or the folder
            cannot be created.
    """

    def __init__(
        self,
        url: str,
        secret: bytes | str,
        *,
        folder: Path | None = None,
        wait: float = WAIT_SECONDS,
        retry: float = RETRY_SECONDS,
        site: str = "",
    ) -> None:
        self._spool = _create(folder or spool_folder(url))
        self._reason = ""
        self._spool_reason = ""
        self._refused = 0
        self._begun = False
        self._retry = retry
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="spool", daemon=True)
        try:
            super().__init__(url, secret, wait=wait, site=site)
        except LogError:
            self._spool.close()
            raise
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records, outcomes and events that this process has yet to write to the database."""
        with self._mutex:
            return self._spool.waiting

    @property
    def trouble(self) -> str:
        """Warnings for readers of the page, a sentence or two; empty if there are none."""
        result = []
        if self._reason:
            result.append(
                f"The prediction log cannot be written ({self._reason}); records wait on disk "
                f"until it can ({self.waiting} waiting)."
            )
        if self._spool_reason:
            result.append(f"The spool {self._spool.folder} cannot be used ({self._spool_reason}).")
        if self._refused:
            result.append(
                f"Some spooled records cannot be written to the prediction log and are in "
                f"{self._spool.aside} ({self._refused} since the start)."
            )
        return " ".join(result)

    def close(self) -> None:
        """Close every connection; spooled records stay for the next process that opens this log."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            with self._mutex:
                self._spool.close()
        super().close()

    def _open(self, create: bool) -> None:
        """Open the database, or remember why it is unavailable."""
        try:
            super()._open(create)
            self._begun = True
        except LogError as error:
            if not is_unavailable(error):
                raise
            self._reason = error.message

    def _insert(self, table: Table, values: Iterable[BaseModel]) -> int:
        """Insert into the database, or add to the spool.

        Raises:
            LogError: neither can be written.
        """
        given, reason = list(values), self._reason
        if not reason:
            try:
                return super()._insert(table, given)
            except LogError as error:
                reason = error.message
        with self._mutex:
            self._reason = reason
            try:
                self._spool.append([encoded(value) for value in given])
            except OSError as error:
                raise LogError(
                    f"{reason}; nor can the spool be written ({error.strerror})",
                    field=str(self._spool.folder),
                    remedy="Make room on the disk, or see who may write there",
                ) from error
        return len(given)

    def _keep_trying(self) -> None:
        while True:
            try:
                self._replay()
            except LogError as error:
                self._reason = error.message
            except OSError as error:
                self._spool_reason = error.strerror or str(error)
            if self._ended.wait(self._retry):
                return

    def _replay(self) -> None:
        """Replay the spool, oldest first, then write to the database again.

        Raises:
            LogError, OSError: the database or the spool still cannot be used.
        """
        if self._reason:
            # A log that was there and is gone is not begun anew in its place: a disk may be
            # unmounted.
            super()._open(create=not self._begun)
            self._begun = True
        with self._mutex:
            self._spool.take_over()
        while not self._ended.is_set():
            with self._mutex:
                file = self._spool.oldest()
                if file is None:
                    self._reason = self._spool_reason = ""
                    return
            if refused := self._bring_in(file):
                self._spool.set_aside(refused)
                self._refused += len(refused)
            with self._mutex:
                self._spool.drop(file)

    def _bring_in(self, file: SpoolFile) -> list[bytes]:
        """Insert the lines of a file; returns those that are damaged or refused."""
        lines, refused = file.read(), []
        while batch := list(islice(lines, BATCH)):
            contents = [(line, decoded(line)) for line in batch]
            try:
                self._insert_mixed([stored for _, stored in contents if stored is not None])
                refused += [line for line, stored in contents if stored is None]
            except LogError as error:
                if not is_refused(error):
                    raise
                refused += [
                    line for line, stored in contents if stored is None or not self._takes(stored)
                ]
        return refused

    def _takes(self, stored: BaseModel) -> bool:
        """Insert one alone; False where the database refuses it."""
        try:
            self._insert_mixed([stored])
        except LogError as error:
            if not is_refused(error):
                raise
            return False
        return True

    def _insert_mixed(self, values: Sequence[BaseModel]) -> None:
        for name, contract in CONTRACTS.items():
            super()._insert(TABLES[name], [v for v in values if isinstance(v, contract)])


def spool_folder(url: str) -> Path:
    """Default folder of the spool of a log: beside an SQLite file, else below `logs`.

    Raises:
        LogError: the URL is invalid.
    """
    if file := sqlite_file(url):
        return file.with_name(f"{file.name}.spool")
    parsed = checked_url(url)
    name = "-".join(str(p) for p in (parsed.host, parsed.port, parsed.database) if p)
    return Path("logs") / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.spool"


def open_spooled_log(url: str, folder: Path | None = None, site: str = "") -> SpooledLog:
    """Open a log to write to, with its secret.

    Raises:
        LogError: as SpooledLog and `find_secret`.
    """
    return SpooledLog(url, find_secret(url), folder=folder, site=site)


def _create(folder: Path) -> Spool:
    try:
        return Spool(folder)
    except OSError as error:
        raise LogError(
            error.strerror or str(error), field=str(folder), remedy="Choose another folder"
        ) from error
