"""LogReader: what can be asked of a log; long windows come out a batch at a time."""

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import islice
from typing import Any

from sqlalchemy import URL, Column, ColumnElement, Select, Table, select
from sqlalchemy.engine import Connection, Engine

from cxr_mm.contracts.record import Outcome, PredictionRecord, ServiceEvent
from cxr_mm.prediction_log.database import database_errors, shown, snapshot
from cxr_mm.prediction_log.linking import BATCH
from cxr_mm.prediction_log.schema import (
    EVENTS,
    MOMENT,
    OUTCOMES,
    PREDICTIONS,
    SCHEMA_VERSION,
    Embedding,
    aware,
    value_columns,
)
from cxr_mm.prediction_log.windows import (
    By,
    ServiceCount,
    WindowIndex,
    counted,
    event_query,
    index_query,
    indexed,
    latency_query,
)


class LogReader:
    """A log as it is read; rows that were erased are not there for it.

    Args:
        url: checked.
        engine: to that database.
    """

    def __init__(self, url: URL, engine: Engine) -> None:
        self._url, self._engine = url, engine
        self._version = SCHEMA_VERSION

    @property
    def url(self) -> str:
        """The URL without its password."""
        return shown(self._url)

    @property
    def is_chained(self) -> bool:
        """Whether the log is of this version; one of a former version has no chain yet."""
        return self._version == SCHEMA_VERSION

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
        return list(self.stream_window(task, since, until, digest))

    def stream_window(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
        *,
        embeddings: bool = True,
    ) -> Iterator[PredictionRecord]:
        """`read_window`, a batch at a time, for windows that should not be held whole.

        Records come without their embeddings, and faster, where those are not asked for.
        """
        query = _within(self._select(PREDICTIONS, embeddings), PREDICTIONS, task, since, until)
        if digest is not None:
            query = query.where(PREDICTIONS.c.digest == digest)
        query = query.order_by(PREDICTIONS.c.created_at, PREDICTIONS.c.position)
        query = query.execution_options(yield_per=BATCH)
        with self._reading() as connection, connection.execute(query) as rows:
            for row in rows.mappings():
                yield PredictionRecord.model_validate(dict(row))

    def window_index(
        self,
        task: str,
        since: datetime | None = None,
        until: datetime | None = None,
        digest: str | None = None,
    ) -> WindowIndex:
        """Where the records of a window are, and when and of which study, without reading them.

        Raises:
            LogError: as `read_window`.
        """
        query = _within(index_query(), PREDICTIONS, task, since, until)
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
        place = PREDICTIONS.c.position
        query = self._select(PREDICTIONS, embeddings).add_columns(place)
        while batch := [int(p) for p in islice(left, BATCH)]:
            with self._reading() as connection:
                rows = connection.execute(
                    query.where(place.in_(batch), PREDICTIONS.c.study_hash != "")
                ).mappings()
                found = {row["position"]: dict(row) for row in rows}
            for position in batch:
                if (values := found.get(position)) is not None:
                    yield PredictionRecord.model_validate(
                        {k: v for k, v in values.items() if k != "position"}
                    )

    def read_outcomes(self, studies: Collection[str] | None = None) -> list[Outcome]:
        """The newest label of each study and finding; earlier ones stay in the database.

        Args:
            studies: hashes of the studies whose labels are wanted; default: all.

        Raises:
            LogError: the database cannot be read.
        """
        query = self._select(OUTCOMES).where(OUTCOMES.c.study_hash != "")
        query = query.order_by(OUTCOMES.c.recorded_at, OUTCOMES.c.position)
        query = query.execution_options(yield_per=BATCH)
        newest: dict[tuple[str, str], Outcome] = {}
        with self._reading() as connection:
            for part in _parts(query, OUTCOMES.c.study_hash, studies):
                for row in connection.execute(part).mappings():
                    newest[row["study_hash"], row["finding"]] = Outcome.model_validate(dict(row))
        return list(newest.values())

    def read_events(
        self, task: str, since: datetime | None = None, until: datetime | None = None
    ) -> list[ServiceEvent]:
        """Requests of a window that got no prediction, oldest first.

        Raises:
            LogError: as `read_window`.
        """
        if not self.is_chained:
            return []
        query = _within(self._select(EVENTS), EVENTS, task, since, until)
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
        by: By = "hour",
    ) -> list[ServiceCount]:
        """Volume, refusals, errors and latency of each hour or day (UTC) that had any, in order.

        Raises:
            LogError: as `read_window`.
        """
        latencies = _within(latency_query(digest), PREDICTIONS, task, since, until)
        events: Select[Any] | None = None
        if self.is_chained:
            events = _within(event_query(digest), EVENTS, task, since, until)
        with self._reading() as connection:
            return counted(connection, latencies, events, by)

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
        """The values of a table, those that a log of this version has."""
        columns = value_columns(table, self._version)
        return select(*(c for c in columns if embeddings or not isinstance(c.type, Embedding)))


def _within(
    query: Select[Any], table: Table, task: str, since: datetime | None, until: datetime | None
) -> Select[Any]:
    moment: ColumnElement[datetime] = MOMENT[table]
    query = query.where(table.c.task == task)
    if since is not None:
        query = query.where(moment >= aware(since))
    if until is not None:
        query = query.where(moment < aware(until))
    return query


def _parts(
    query: Select[Any], column: Column[str], wanted: Collection[str] | None
) -> Iterator[Select[Any]]:
    """A query restricted to wanted values, so many at a time as a database takes."""
    if wanted is None:
        yield query
        return
    left: Iterator[str] = iter(wanted)
    while batch := list(islice(left, BATCH)):
        yield query.where(column.in_(batch))
