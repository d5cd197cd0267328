"""Windows in numbers: where their records are, and what the service did, as numpy arrays.

The queries stay within the index `predictions_by_time`, so that a million rows are not read to
be counted.
"""

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Select, String, select, type_coerce
from sqlalchemy.engine import Connection

from cxr_mm.prediction_log.schema import EVENTS, PREDICTIONS

LIGHT_BATCH = 20_000
HOURS = "datetime64[h]"


@dataclass(frozen=True)
class WindowIndex:
    """The records of a window, in order of time.

    Args:
        position: (N,) int64, for `PredictionLog.read_positions`.
        created_at: (N,) datetime64[us], UTC.
        study_hash: (N,) bytes (dtype S64), as outcomes have them.
        others: records of the window by digests that were not asked for.
    """

    position: NDArray[np.int64]
    created_at: NDArray[np.datetime64]
    study_hash: NDArray[np.bytes_]
    others: dict[str, int]

    def __len__(self) -> int:
        return len(self.position)


@dataclass(frozen=True)
class ServiceCount:
    """What the service did in one hour.

    Args:
        start: of it, UTC.
        records: predictions.
        events: kind of ServiceEvent → how many.
        latency_mean, latency_p95: milliseconds; None where none was measured.
    """

    start: datetime
    records: int
    events: dict[str, int]
    latency_mean: float | None
    latency_p95: float | None


def index_query() -> Select[Any]:
    """Position, time, study and digest of every record, in order of time."""
    c = PREDICTIONS.c
    columns = (c.position, _stored(c.created_at), c.study_hash, c.digest)
    return select(*columns).order_by(c.created_at, c.position)


def latency_query(digest: str | None) -> Select[Any]:
    """Time and latency of every record of a digest, or of any."""
    query = select(_stored(PREDICTIONS.c.created_at), PREDICTIONS.c.latency_ms)
    return query if digest is None else query.where(PREDICTIONS.c.digest == digest)


def event_query(digest: str | None) -> Select[Any]:
    """Time and kind of every event of a digest, or of any."""
    query = select(_stored(EVENTS.c.created_at), EVENTS.c.kind)
    return query if digest is None else query.where(EVENTS.c.digest == digest)


def indexed(connection: Connection, query: Select[Any], digest: str | None) -> WindowIndex:
    """Run an index query."""
    others: Counter[str] = Counter()
    parts = [(np.empty(0, np.int64), _moments([]), np.empty(0, "S64"))]
    for rows in _batches(connection, query):
        others.update(row.digest for row in rows)
        mine = [row for row in rows if digest is None or row.digest == digest]
        parts.append(
            (
                np.array([row.position for row in mine], np.int64),
                _moments([row.created_at for row in mine]),
                np.array([row.study_hash for row in mine], "S64"),
            )
        )
    requested = set(others) if digest is None else {digest}
    position, created_at, study_hash = (np.concatenate(part) for part in zip(*parts, strict=True))
    return WindowIndex(
        position, created_at, study_hash, {d: n for d, n in others.items() if d not in requested}
    )


def labelled(connection: Connection, query: Select[Any]) -> NDArray[np.bytes_]:
    """Run a query of study hashes; each once, ascending."""
    parts = [np.empty(0, "S64")]
    parts += [np.array([row[0] for row in rows], "S64") for rows in _batches(connection, query)]
    return np.unique(np.concatenate(parts))


def counted(
    connection: Connection, latencies: Select[Any], events: Select[Any]
) -> list[ServiceCount]:
    """Run a latency query and an event query, and count what they give by the hour."""
    start, value = _columns(connection, latencies, np.float64)
    seen, kind = _columns(connection, events, object)
    counts = []
    for hour in np.union1d(start, seen):
        low, high = np.searchsorted(start, [hour, hour + 1])
        first, last = np.searchsorted(seen, [hour, hour + 1])
        known = value[low:high][~np.isnan(value[low:high])]
        counts.append(
            ServiceCount(
                start=hour.astype("datetime64[us]").item().replace(tzinfo=UTC),
                records=int(high - low),
                events=dict(sorted(Counter(kind[first:last]).items())),
                latency_mean=float(known.mean()) if known.size else None,
                latency_p95=float(np.percentile(known, 95)) if known.size else None,
            )
        )
    return counts


def _columns(
    connection: Connection, query: Select[Any], kind: Any
) -> tuple[NDArray[np.datetime64], NDArray[Any]]:
    """Hour and value of each row of a query of two columns, in order."""
    starts, values = [_moments([]).astype(HOURS)], [np.empty(0, kind)]
    for rows in _batches(connection, query):
        starts.append(_moments([row[0] for row in rows]).astype(HOURS))
        values.append(np.array([row[1] for row in rows], kind))
    start, value = np.concatenate(starts), np.concatenate(values)
    order = np.argsort(start, kind="stable")
    return start[order], value[order]


def _batches(connection: Connection, query: Select[Any]) -> Any:
    return connection.execute(query.execution_options(yield_per=LIGHT_BATCH)).partitions()


def _stored(column: Any) -> Any:
    """A moment as the driver gives it, text or datetime; to numpy both are the same."""
    return type_coerce(column, String).label(column.name)


def _moments(values: list[Any]) -> NDArray[np.datetime64]:
    return np.array(values, dtype="datetime64[us]")
