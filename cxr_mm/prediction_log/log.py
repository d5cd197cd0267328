"""PredictionLog: append records of answers and their outcomes, read windows of them.

A PredictionRecord has no pixels, no note text, and ids only as keyed hashes.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import islice
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel
from sqlalchemy import URL, ColumnElement, Select, Table, select, union
from sqlalchemy.engine import Connection, Engine

from cxr_mm.core.errors import LogError
from cxr_mm.core.prediction import Answer
from cxr_mm.core.record import Outcome, PredictionRecord, ServiceEvent, random_id, record_of
from cxr_mm.prediction_log.chain import BATCH, append_rows
from cxr_mm.prediction_log.database import (
    BUSY_SECONDS,
    chain_key,
    check_tables,
    checked_secret,
    checked_site,
    checked_url,
    create_tables,
    database_errors,
    find_secret,
    keyed_hash,
    make_folder,
    open_engine,
    public_url,
    snapshot,
    sqlite_file,
    vacuum,
    writing,
)
from cxr_mm.prediction_log.schema import (
    EVENTS,
    MOMENT,
    OUTCOMES,
    PREDICTIONS,
    Embedding,
    aware,
    value_columns,
)
from cxr_mm.prediction_log.windows import (
    ServiceCount,
    WindowIndex,
    counted,
    event_query,
    index_query,
    indexed,
    labelled,
    latency_query,
)


class LogReader:
    """Read access to a log; erased rows are left out.

    Args:
        url: checked.
        engine: to that database.
    """

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url, self._engine = url, engine

    @property
    def url(self) -> str:
        """The URL without its password."""
        return public_url(self._url)

    @contextmanager
    def snapshot(self) -> Iterator[Connection]:
        """A connection that sees the log as it is now, whatever others write meanwhile.

        Raises:
            LogError: the database cannot be read.
        """
        with database_errors(self._url), snapshot(self._engine) as connection:
            yield connection

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
        return list(self.read_positions(self.window_index(task, since, until, digest).position))

    def window_index(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
        source: str | None = None,
        site: str | None = None,
    ) -> WindowIndex:
        """Where the records of a window are, and when and of which study, without reading them.

        Args:
            task, since, until: as `read_window`.
            digest: of the model whose records are meant; None for every one.
            source: where their studies came from, `page`, `rest` or `pacs`; None for all.
            site: whose records are meant; None for all.

        Raises:
            LogError: as `read_window`.
        """
        query = _within(index_query(), PREDICTIONS, task, since, until, site)
        if source is not None:
            query = query.where(PREDICTIONS.c.source == source)
        with self._reading() as connection:
            return indexed(connection, query, digest)

    def read_positions(
        self, positions: Iterable[int], *, embeddings: bool = True
    ) -> Iterator[PredictionRecord]:
        """Records at positions of a `WindowIndex`, in that order; any erased since is left out.

        Raises:
            LogError: the database cannot be read.
        """
        left = iter(positions)
        column = PREDICTIONS.c.position
        query = self._select(PREDICTIONS, embeddings).add_columns(column)
        while batch := [int(p) for p in islice(left, BATCH)]:
            with self._reading() as connection:
                rows = connection.execute(
                    query.where(column.in_(batch), PREDICTIONS.c.study_hash != "")
                ).mappings()
                read = {row["position"]: dict(row) for row in rows}
            for position in batch:
                if (values := read.get(position)) is not None:
                    yield PredictionRecord.model_validate(
                        {k: v for k, v in values.items() if k != "position"}
                    )

    def labelled_studies(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        site: str | None = None,
    ) -> NDArray[np.bytes_]:
        """Studies of a window, as of `window_index`, that have a label of any finding.

        Returns:
            (N,) study hashes (dtype S64), each once, ascending.

        Raises:
            LogError: as `read_window`.
        """
        studies = _within(select(PREDICTIONS.c.study_hash), PREDICTIONS, task, since, until, site)
        c = OUTCOMES.c.study_hash
        with self._reading() as connection:
            return labelled(connection, select(c).where(c != "", c.in_(studies)))

    def read_outcomes(self, studies: Iterable[str] | None = None) -> list[Outcome]:
        """The newest label of each study and finding; earlier ones stay in the database.

        Args:
            studies: hashes of those whose labels are read; None for all.

        Raises:
            LogError: as `read_window`.
        """
        c = OUTCOMES.c
        query = self._select(OUTCOMES).where(c.study_hash != "").order_by(c.recorded_at, c.position)
        parts = [query]
        if studies is not None:
            wanted = list(studies)
            batches = (wanted[i : i + BATCH] for i in range(0, len(wanted), BATCH))
            parts = [query.where(c.study_hash.in_(batch)) for batch in batches]
        newest: dict[tuple[str, str], Outcome] = {}
        with self._reading() as connection:
            for part in parts:
                rows = connection.execute(part.execution_options(yield_per=BATCH))
                for row in rows.mappings():
                    newest[row["study_hash"], row["finding"]] = Outcome.model_validate(dict(row))
        return list(newest.values())

    def read_events(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        site: str | None = None,
    ) -> list[ServiceEvent]:
        """Requests of a window, as of `window_index`, that got no prediction, oldest first.

        Raises:
            LogError: as `read_window`.
        """
        query = _within(self._select(EVENTS), EVENTS, task, since, until, site)
        query = query.order_by(EVENTS.c.created_at, EVENTS.c.position)
        with self._reading() as connection:
            rows = connection.execute(query).mappings()
            return [ServiceEvent.model_validate(dict(row)) for row in rows]

    def service_counts(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
        site: str | None = None,
    ) -> list[ServiceCount]:
        """Volume, refusals, errors and latency of each hour (UTC) that had any, in order.

        Args:
            task, since, until, digest, site: the window, as `window_index`.

        Raises:
            LogError: as `read_window`.
        """
        latencies = _within(latency_query(digest), PREDICTIONS, task, since, until, site)
        events = _within(event_query(digest), EVENTS, task, since, until, site)
        with self._reading() as connection:
            return counted(connection, latencies, events)

    def sites(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
    ) -> list[str]:
        """Sites with a record or event of a model in a window, sorted; empty names no site.

        Raises:
            LogError: as `read_window`.
        """
        queries = []
        for table in (PREDICTIONS, EVENTS):
            query = _within(select(table.c.site), table, task, since, until)
            queries.append(query if digest is None else query.where(table.c.digest == digest))
        with self._reading() as connection:
            return sorted(connection.scalars(union(*queries)))

    def study_hashes(self) -> set[str]:
        """Every study that is in the log."""
        query = select(PREDICTIONS.c.study_hash).distinct()
        with self._reading() as connection:
            return set(connection.scalars(query.where(PREDICTIONS.c.study_hash != "")))

    @contextmanager
    def _reading(self) -> Iterator[Connection]:
        with database_errors(self._url), self._engine.connect() as connection:
            yield connection

    def _select(self, table: Table, embeddings: bool = True) -> Select[Any]:
        columns = value_columns(table)
        return select(*(c for c in columns if embeddings or not isinstance(c.type, Embedding)))


def _within(
    query: Select[Any],
    table: Table,
    task: str,
    since: datetime | None,
    until: datetime | None,
    site: str | None = None,
) -> Select[Any]:
    moment: ColumnElement[datetime] = MOMENT[table]
    query = query.where(table.c.task == task)
    if since is not None:
        query = query.where(moment >= aware(since))
    if until is not None:
        query = query.where(moment < aware(until))
    return query if site is None else query.where(table.c.site == site)


def _now() -> datetime:
    return datetime.now(UTC)


class PredictionLog(LogReader):
    """A log of predictions and their later outcomes; safe for threads and processes.

    Args:
        url: SQLAlchemy URL; `sqlite:///predictions.db` is the usual one.
        secret: key of the hashes and of the chain; None opens a log that can only be read.
        create: create the database and its tables where they are missing.
        wait: seconds that a write waits for another.
        clock: the time that records and events are given, with UTC offset.
        site: that records and events are given; empty where there is but one.

    Raises:
        LogError: the URL or site is invalid, or the database cannot be opened, is no prediction
            log, has another version, or was created with another secret.
    """

    def __init__(
        self,
        url: str,
        secret: bytes | str | None,
        *,
        create: bool = True,
        wait: float = BUSY_SECONDS,
        clock: Callable[[], datetime] = _now,
        site: str = "",
    ) -> None:
        checked = checked_url(url)
        self._secret = checked_secret(secret)
        self._wait = wait
        self.clock = clock
        self.site = checked_site(site)
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
            check_tables(self._engine, self._url, self._secret)

    @property
    def trouble(self) -> str:
        """Warnings for readers of the page; empty here, since this log raises errors instead."""
        return ""

    def append(self, answer: Answer) -> PredictionRecord:
        """Store one answer; when this returns, the record is on disk."""
        return self.append_many([answer])[0]

    def append_many(
        self, answers: Iterable[Answer], source: str = "", *, once: bool = False
    ) -> list[PredictionRecord]:
        """Store several answers, all of them or none.

        Args:
            answers: of any studies.
            source: where the studies came from.
            once: store one record for each study and model, however often it is answered.
        """
        records = [self.record(answer, source, once=once) for answer in answers]
        self.add_records(records)
        return records

    def add_records(self, records: Iterable[PredictionRecord]) -> None:
        """Store records whose ids are hashed already, all or none; known ones stay unchanged."""
        self._insert(PREDICTIONS, records)

    def record(self, answer: Answer, source: str = "", *, once: bool = False) -> PredictionRecord:
        """Build the record of an answer; `source` and `once` as of `append_many`."""
        patient, prediction = answer.study.patient_id, answer.prediction
        parts = ("record", source, prediction.digest, answer.study.study_id)
        return record_of(
            answer,
            record_id=self._hash(":".join(parts)) if once else random_id(),
            created_at=self.clock(),
            study=self.hash_id(answer.study.study_id),
            patient=None if patient is None else self.hash_id(patient, "patient"),
            source=source,
            site=self.site,
        )

    def hash_id(self, value: str, kind: Literal["study", "patient"] = "study") -> str:
        """Keyed hash of an id, hexadecimal; a study and a patient of the same id differ.

        Raises:
            LogError: the log was opened without its secret.
        """
        return self._hash(f"{kind}:{value}")

    def _hash(self, text: str) -> str:
        return keyed_hash(self._known_secret, text)

    def add_outcomes(self, outcomes: Iterable[Outcome]) -> int:
        """Store later labels (`study_hash` from `hash_id`); returns how many were given.

        All of them are stored or none; known ones stay unchanged.
        """
        return self._insert(OUTCOMES, outcomes)

    def add_events(self, events: Iterable[ServiceEvent]) -> int:
        """Store requests without a prediction; returns how many were given."""
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
        """Open a transaction, committed if the body succeeds.

        Raises:
            LogError: the database cannot be written, or the log was opened without its secret.
        """
        with database_errors(self._url), writing(self._engine) as connection:
            yield connection

    def vacuum(self) -> None:
        """Remove deleted content from the files of the database.

        Raises:
            LogError: it cannot be done now.
        """
        with database_errors(self._url):
            vacuum(self._engine, self._url)

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
        """Insert in one transaction; known identities are left out."""
        rows, key = [dict(value) for value in values], self.chain_key
        with self.writing() as connection:
            append_rows(connection, table, rows, key)
        return len(rows)


def open_log(
    url: str, *, create: bool = True, secret: bool = True, site: str = ""
) -> PredictionLog:
    """Open a log with its secret, or without, to read only.

    Raises:
        LogError: as PredictionLog and `find_secret`.
    """
    _check_file(url, create)
    return PredictionLog(url, find_secret(url) if secret else None, create=create, site=site)


def _check_file(url: str | URL, create: bool) -> None:
    file = sqlite_file(url)
    if file is None:
        return
    if create:
        make_folder(file)
    elif not file.exists():
        raise LogError("no such file", field=str(file), remedy="Log a prediction first")
