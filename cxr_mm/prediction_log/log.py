"""PredictionLog: records go in as answers are given, outcomes when they come, windows come out.

What is kept is a PredictionRecord: no pixels, no note text, ids only as keyed hashes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal, Self

from pydantic import BaseModel
from sqlalchemy import URL, Table
from sqlalchemy.engine import Connection

from cxr_mm.contracts.answer import Answer, record_of
from cxr_mm.contracts.record import Outcome, PredictionRecord, ServiceEvent, random_id
from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import (
    BUSY_SECONDS,
    checked_url,
    clear_away,
    database_errors,
    make_folder,
    open_engine,
    sqlite_file,
    writing,
)
from cxr_mm.prediction_log.linking import append_rows
from cxr_mm.prediction_log.reader import LogReader
from cxr_mm.prediction_log.schema import EVENTS, OUTCOMES, PREDICTIONS
from cxr_mm.prediction_log.secret import chain_key, checked_secret, find_secret, keyed_hash
from cxr_mm.prediction_log.tables import check_tables, create_tables


def _now() -> datetime:
    return datetime.now(UTC)


class PredictionLog(LogReader):
    """A log of predictions and of the outcomes that came later; safe for threads and processes.

    Args:
        url: SQLAlchemy URL; `sqlite:///predictions.db` is the usual one.
        secret: key of the hashes and of the chain; None opens a log that can only be read.
        create: make the database and its tables where they are not there, and bring a log of a
            former version to this one.
        wait: seconds that a write waits for another.
        clock: the time that records and events are given, with UTC offset.

    Raises:
        LogError: the URL is none, the database cannot be opened, is no prediction log, is of
            another version, or was begun with another secret.
    """

    def __init__(
        self,
        url: str,
        secret: bytes | str | None,
        *,
        create: bool = True,
        wait: float = BUSY_SECONDS,
        clock: Callable[[], datetime] = _now,
    ) -> None:
        checked = checked_url(url)
        self._secret = checked_secret(secret)
        self._wait = wait
        self.clock = clock
        super().__init__(checked, open_engine(checked, wait))
        try:
            self._open(create)
        except LogError:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        _check_file(self._url, create)
        with database_errors(self._url):
            if create:
                create_tables(self._engine, self._secret, self._wait)
            self._version = check_tables(self._engine, self._url, self._secret)

    @property
    def trouble(self) -> str:
        """What a reader should know of the log; this one raises what it cannot keep."""
        return ""

    def append(self, answer: Answer) -> PredictionRecord:
        """Keep one answer; when this returns, the record is on disk."""
        return self.append_many([answer])[0]

    def append_many(self, answers: Iterable[Answer]) -> list[PredictionRecord]:
        """Keep several answers, all of them or none."""
        records = [self.record(answer) for answer in answers]
        self.add_records(records)
        return records

    def add_records(self, records: Iterable[PredictionRecord]) -> None:
        """Keep records whose ids are hashed already, all of them or none; those there stay."""
        self._insert(PREDICTIONS, records)

    def record(self, answer: Answer) -> PredictionRecord:
        """What would be kept of an answer."""
        patient = answer.study.patient_id
        return record_of(
            answer,
            record_id=random_id(),
            created_at=self.clock(),
            study=self.hash_id(answer.study.study_id),
            patient=None if patient is None else self.hash_id(patient, "patient"),
        )

    def hash_id(self, value: str, kind: Literal["study", "patient"] = "study") -> str:
        """Keyed hash of an id, hexadecimal; a study and a patient of the same id differ.

        Raises:
            LogError: the log was opened without its secret.
        """
        return keyed_hash(self._known_secret, f"{kind}:{value}")

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> int:
        """Keep labels that came later (`study_hash` from `hash_id`); returns how many were given.

        All of them are kept or none; those that are there already stay.
        """
        return self._insert(OUTCOMES, outcomes)

    def add_events(self, events: Iterable[ServiceEvent]) -> int:
        """Keep requests that got no prediction, as `add_outcomes` does; how many were given."""
        return self._insert(EVENTS, events)

    @property
    def chain_key(self) -> bytes:
        """Key of the chain that the rows are linked by.

        Raises:
            LogError: the log was opened without its secret.
        """
        return chain_key(self._known_secret)

    @contextmanager
    def writing(self) -> Iterator[Connection]:
        """A transaction of a log of this version, kept where the body ends well.

        Raises:
            LogError: the database cannot be written, or the log was opened without its secret.
        """
        with database_errors(self._url):
            if not self.is_chained:
                create_tables(self._engine, self._known_secret, self._wait)
                self._version = check_tables(self._engine, self._url, self._secret)
            with writing(self._engine) as connection:
                yield connection

    def clear_away(self) -> None:
        """Take out of the database's files what was removed from its tables.

        Raises:
            LogError: it cannot be done now.
        """
        with database_errors(self._url):
            clear_away(self._engine, self._url)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def _known_secret(self) -> bytes:
        if self._secret is None:
            raise LogError("the log was opened without its secret", field=self.url)
        return self._secret

    def _insert(self, table: Table, values: Iterable[BaseModel]) -> int:
        """Insert in one transaction those whose identity the table does not hold yet."""
        rows, key = [dict(value) for value in values], self.chain_key
        with self.writing() as connection:
            append_rows(connection, table, rows, key)
        return len(rows)


def open_log(url: str, *, create: bool = True, secret: bool = True) -> PredictionLog:
    """Open a log with the secret that belongs to it, or without, to read only.

    Raises:
        LogError: as PredictionLog and `find_secret`.
    """
    _check_file(url, create)
    return PredictionLog(url, find_secret(url) if secret else None, create=create)


def _check_file(url: str | URL, create: bool) -> None:
    file = sqlite_file(url)
    if file is None:
        return
    if create:
        make_folder(file)
    elif not file.exists():
        raise LogError("no such file", field=str(file), remedy="Log a prediction first")
