"""PredictionLog: records go in as answers are given, outcomes when they come, windows come out.

What is kept is a PredictionRecord: no pixels, no note text, ids only as keyed hashes.
"""

import math
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import URL, Column, insert, select

from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.record import Outcome, PredictionRecord, random_id
from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import (
    BUSY_SECONDS,
    check_tables,
    checked_url,
    create_tables,
    database_errors,
    make_folder,
    open_engine,
    shown,
    sqlite_file,
)
from cxr_mm.prediction_log.migration import migrate
from cxr_mm.prediction_log.schema import (
    FORMER_OUTCOME_COLUMNS,
    OUTCOME_COLUMNS,
    OUTCOMES,
    PREDICTIONS,
    RECORD_COLUMNS,
    SCHEMA_VERSION,
    aware,
)
from cxr_mm.prediction_log.secret import checked_secret, find_secret, keyed_hash

BATCH = 1000


class PredictionLog:
    """A log of predictions and of the outcomes that came later; safe for threads and processes.

    Args:
        url: SQLAlchemy URL; `sqlite:///predictions.db` is the usual one.
        secret: key of the hashes; None opens a log that can be read but not hashed into.
        create: make the database and its tables where they are not there, and bring a log of the
            former version to this one.
        wait: seconds that a write to SQLite waits for another.

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
    ) -> None:
        self._url = checked_url(url)
        self._secret = checked_secret(secret)
        self._wait = wait
        self._version = SCHEMA_VERSION
        self._engine = open_engine(self._url, wait)
        try:
            self._open(create)
        except LogError:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        fingerprint = None if self._secret is None else keyed_hash(self._secret, "log")
        _check_file(self._url, create)
        with database_errors(self._url):
            if create:
                create_tables(self._engine, fingerprint, self._wait)
            self._version = check_tables(self._engine, self._url, fingerprint)

    @property
    def url(self) -> str:
        """The URL without its password."""
        return shown(self._url)

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
        self._insert(PREDICTIONS.c.record_id, [dict(record) for record in records])

    def record(self, answer: Answer) -> PredictionRecord:
        """What would be kept of an answer."""
        study, prediction = answer.study, answer.prediction
        patient = study.patient_id
        return PredictionRecord(
            record_id=random_id(),
            created_at=datetime.now(UTC),
            task=prediction.task,
            model=prediction.model,
            digest=prediction.digest,
            study_hash=self.hash_id(study.study_id),
            patient_hash=None if patient is None else self.hash_id(patient, "patient"),
            modalities=prediction.modalities,
            view=study.view,
            clinical=answer.clinical,
            quality={k: float(v) for k, v in answer.quality.items() if math.isfinite(v)},
            image_embedding=_floats(answer.image_embedding),
            note_embedding=_floats(answer.note_embedding),
            probabilities={f.finding: f.probability for f in prediction.findings},
            positives={f.finding: f.positive for f in prediction.findings},
            latency_ms=answer.latency_ms,
        )

    def hash_id(self, value: str, kind: Literal["study", "patient"] = "study") -> str:
        """Keyed hash of an id, hexadecimal; a study and a patient of the same id differ.

        Raises:
            LogError: the log was opened without its secret.
        """
        if self._secret is None:
            raise LogError("the log was opened without its secret", field=self.url)
        return keyed_hash(self._secret, f"{kind}:{value}")

    def read_window(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
    ) -> list[PredictionRecord]:
        """Records of a task from `since` (included) to `until` (not included), oldest first.

        Raises:
            LogError: a bound has no UTC offset, or the database cannot be read.
        """
        return list(self.stream_window(task, since, until, digest))

    def stream_window(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
    ) -> Iterator[PredictionRecord]:
        """`read_window`, a batch at a time, for windows that should not be held whole."""
        query = select(*RECORD_COLUMNS).where(PREDICTIONS.c.task == task)
        if since is not None:
            query = query.where(PREDICTIONS.c.created_at >= aware(since))
        if until is not None:
            query = query.where(PREDICTIONS.c.created_at < aware(until))
        if digest is not None:
            query = query.where(PREDICTIONS.c.digest == digest)
        query = query.order_by(PREDICTIONS.c.created_at, PREDICTIONS.c.position)
        with database_errors(self._url), self._engine.connect() as connection:
            for row in connection.execution_options(yield_per=BATCH).execute(query).mappings():
                yield PredictionRecord.model_validate(dict(row))

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> int:
        """Keep labels that came later (`study_hash` from `hash_id`); returns how many were given.

        All of them are kept or none; those that are there already stay.
        """
        rows = [dict(outcome) for outcome in outcomes]
        if self._version != SCHEMA_VERSION:
            with database_errors(self._url):
                migrate(self._engine)
            self._version = SCHEMA_VERSION
        self._insert(OUTCOMES.c.outcome_id, rows)
        return len(rows)

    def read_outcomes(self) -> list[Outcome]:
        """The newest label of each study and finding; earlier ones stay in the database."""
        current = self._version == SCHEMA_VERSION
        columns = OUTCOME_COLUMNS if current else FORMER_OUTCOME_COLUMNS
        query = select(*columns).order_by(OUTCOMES.c.recorded_at, OUTCOMES.c.position)
        newest: dict[tuple[str, str], Outcome] = {}
        with database_errors(self._url), self._engine.connect() as connection:
            for row in connection.execute(query).mappings():
                outcome = Outcome.model_validate(dict(row))
                newest[outcome.study_hash, outcome.finding] = outcome
        return list(newest.values())

    def study_hashes(self) -> set[str]:
        """Every study that is in the log."""
        with database_errors(self._url), self._engine.connect() as connection:
            return set(connection.scalars(select(PREDICTIONS.c.study_hash).distinct()))

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

    def _insert(self, identity: Column[str], rows: list[dict[str, Any]]) -> None:
        """Insert in one transaction the rows whose identity the table does not hold yet."""
        with database_errors(self._url), self._engine.begin() as connection:
            for start in range(0, len(rows), BATCH):
                batch = {row[identity.name]: row for row in rows[start : start + BATCH]}
                there = connection.scalars(select(identity).where(identity.in_(batch))).all()
                if fresh := [row for key, row in batch.items() if key not in set(there)]:
                    connection.execute(insert(identity.table), fresh)


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


def _floats(vector: NDArray[np.float32] | None) -> tuple[float, ...] | None:
    return None if vector is None else tuple(np.asarray(vector, np.float32).ravel().tolist())
