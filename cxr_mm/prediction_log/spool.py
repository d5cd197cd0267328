"""SpooledLog: a prediction log that outlives its database; what cannot be written waits on disk.

A thread brings in what waits, so that no prediction waits for it and the page recovers without
one. The database takes each id once: a replay that was killed halfway is done again.
"""

import re
import threading
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from pathlib import Path
from typing import TypeVar

from cxr_mm.contracts.record import Outcome, PredictionRecord, ServiceEvent
from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import checked_url, is_away, is_refused, sqlite_file
from cxr_mm.prediction_log.log import PredictionLog
from cxr_mm.prediction_log.secret import find_secret
from cxr_mm.prediction_log.spool_files import Kept, Spool, SpoolFile, decoded, encoded

WAIT_SECONDS = 2.0
RETRY_SECONDS = 5.0
CLOSE_SECONDS = 10.0
BATCH = 200
K = TypeVar("K", PredictionRecord, Outcome, ServiceEvent)


class SpooledLog(PredictionLog):
    """A prediction log that is written by way of a spool while its database is away.

    What was written is on disk when a call returns, in the database or in the spool. Reading
    needs the database.

    Args:
        url: as PredictionLog.
        secret: likewise.
        folder: of the spool, one for each log; default: `spool_folder`.
        wait: seconds that a write to SQLite waits for another before it goes to the spool.
        retry: seconds between two attempts to bring in what waits.

    Raises:
        LogError: as PredictionLog, but not where the database is merely away; or the folder
            cannot be made.
    """

    def __init__(
        self,
        url: str,
        secret: bytes | str,
        *,
        folder: Path | None = None,
        wait: float = WAIT_SECONDS,
        retry: float = RETRY_SECONDS,
    ) -> None:
        self._spool = _made(folder or spool_folder(url))
        self._reason = ""
        self._spool_reason = ""
        self._refused = 0
        self._begun = False
        self._retry = retry
        self._mutex = threading.Lock()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep_trying, name="spool", daemon=True)
        try:
            super().__init__(url, secret, wait=wait)
        except LogError:
            self._spool.close()
            raise
        self._thread.start()

    @property
    def waiting(self) -> int:
        """Records, outcomes and events that this process has yet to bring into the database."""
        with self._mutex:
            return self._spool.waiting

    @property
    def trouble(self) -> str:
        """What a reader of the page should know, a sentence or two; empty when all is well."""
        said = []
        if self._reason:
            said.append(
                f"The prediction log cannot be written ({self._reason}); what it should hold "
                f"waits on disk until it can ({self.waiting} waiting)."
            )
        if self._spool_reason:
            said.append(f"The spool {self._spool.folder} cannot be used ({self._spool_reason}).")
        if self._refused:
            said.append(
                f"Some of what waited cannot be brought into the prediction log and lies in "
                f"{self._spool.aside} ({self._refused} since the start)."
            )
        return " ".join(said)

    def add_records(self, records: Iterable[PredictionRecord]) -> None:
        """Keep records whose ids are hashed already, in the database or in the spool.

        Raises:
            LogError: neither can be written.
        """
        self._keep(list(records), super().add_records)

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> int:
        """Keep labels that came later, in the database or in the spool; how many were given.

        Raises:
            LogError: neither can be written.
        """
        given = list(outcomes)
        self._keep(given, super().add_outcomes)
        return len(given)

    def add_events(self, events: Iterable[ServiceEvent]) -> int:
        """Keep requests that got no prediction, in the database or in the spool; how many.

        Raises:
            LogError: neither can be written.
        """
        given = list(events)
        self._keep(given, super().add_events)
        return len(given)

    def close(self) -> None:
        """Close every connection; what waits stays in the spool for the next to open this log."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CLOSE_SECONDS)
        if not self._thread.is_alive():
            with self._mutex:
                self._spool.close()
        super().close()

    def _open(self, create: bool) -> None:
        """Open the database, or remember why it is away."""
        try:
            super()._open(create)
            self._begun = True
        except LogError as error:
            if not is_away(error):
                raise
            self._reason = error.message

    def _keep(self, values: list[K], insert: Callable[[Iterable[K]], object]) -> None:
        reason = self._reason
        if not reason:
            try:
                insert(values)
                return
            except LogError as error:
                reason = error.message
        with self._mutex:
            self._reason = reason
            try:
                self._spool.append([encoded(value) for value in values])
            except OSError as error:
                raise LogError(
                    f"{reason}; nor can the spool be written ({error.strerror})",
                    field=str(self._spool.folder),
                    remedy="Make room on the disk, or see who may write there",
                ) from error

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
        """Bring in what waits, oldest first, and write to the database again.

        Raises:
            LogError, OSError: it still cannot be.
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
        """Insert what a file holds; returns the lines that are damaged or that are refused."""
        lines, refused = file.read(), []
        while batch := list(islice(lines, BATCH)):
            found = [(line, decoded(line)) for line in batch]
            try:
                self._insert_mixed([kept for _, kept in found if kept is not None])
                refused += [line for line, kept in found if kept is None]
            except LogError as error:
                if not is_refused(error):
                    raise
                refused += [line for line, kept in found if kept is None or not self._takes(kept)]
        return refused

    def _takes(self, kept: Kept) -> bool:
        """Insert one alone; False where the database refuses this very one."""
        try:
            self._insert_mixed([kept])
        except LogError as error:
            if not is_refused(error):
                raise
            return False
        return True

    def _insert_mixed(self, values: Sequence[Kept]) -> None:
        super().add_records([v for v in values if isinstance(v, PredictionRecord)])
        super().add_outcomes([v for v in values if isinstance(v, Outcome)])
        super().add_events([v for v in values if isinstance(v, ServiceEvent)])


def spool_folder(url: str) -> Path:
    """Where the spool of a log is kept by default: beside an SQLite file, else below `logs`.

    Raises:
        LogError: the URL is none.
    """
    if file := sqlite_file(url):
        return file.with_name(f"{file.name}.spool")
    parsed = checked_url(url)
    name = "-".join(str(p) for p in (parsed.host, parsed.port, parsed.database) if p)
    return Path("logs") / f"{re.sub(r'[^A-Za-z0-9.-]', '_', name)}.spool"


def open_spooled_log(url: str, folder: Path | None = None) -> SpooledLog:
    """Open a log to write to, with the secret that belongs to it.

    Raises:
        LogError: as SpooledLog and `find_secret`.
    """
    return SpooledLog(url, find_secret(url), folder=folder)


def _made(folder: Path) -> Spool:
    try:
        return Spool(folder)
    except OSError as error:
        raise LogError(
            error.strerror or str(error), field=str(folder), remedy="Choose another folder"
        ) from error
