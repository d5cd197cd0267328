"""Tables of the prediction log: fields of the contracts in `record.py`, chained row by row."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
)
from sqlalchemy.engine import Dialect
from sqlalchemy.schema import SchemaItem
from sqlalchemy.types import TypeDecorator

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import LONGEST_COMMENT, LONGEST_SITE

SCHEMA_VERSION = "0.2.0"
"""The release whose schema it is."""
BOOKKEEPING = frozenset({"position", "content", "chain", "erased_at"})
"""Columns of the chain itself."""


def aware(moment: datetime) -> datetime:
    """Check that a moment has a UTC offset.

    Raises:
        LogError: it has none.
    """
    if moment.tzinfo is None:
        raise LogError(
            "the time has no UTC offset", field=moment.isoformat(), remedy="Write it with one"
        )
    return moment


class UtcDateTime(TypeDecorator[datetime]):
    """Aware in Python, UTC without offset in the database, so that every dialect sorts alike."""

    impl = DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else aware(value).astimezone(UTC).replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002
        return None if value is None else value.replace(tzinfo=UTC)


def embedding_bytes(value: Sequence[float] | bytes | None) -> bytes | None:
    """A vector as it is stored, little-endian float32; bytes stay as they are."""
    if value is None or isinstance(value, bytes):
        return value
    return np.asarray(value, dtype="<f4").tobytes()


class Embedding(TypeDecorator[Sequence[float]]):
    """A vector as little-endian float32 bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Sequence[float] | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return embedding_bytes(value)

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> list[float] | None:  # noqa: ARG002
        return None if value is None else np.frombuffer(value, dtype="<f4").tolist()


METADATA = MetaData()
ABOUT = Table(
    "log_about",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", String(200), nullable=False),
)
HEADS = Table(
    "chain_heads",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("position", Integer, nullable=False),
    Column("chain", String(64), nullable=False),
)
"""The last row of each chained table; writers of that table take turns by locking it."""


def _chained(name: str, identity: str, *columns: SchemaItem) -> Table:
    """A table whose rows are numbered without gaps and chained in that order."""
    return Table(
        name,
        METADATA,
        Column("position", Integer, primary_key=True, autoincrement=False),
        Column("content", String(64), nullable=False),
        Column("chain", String(64), nullable=False),
        Column(identity, String(64), nullable=False, unique=True),
        *columns,
        info={"identity": identity},
    )


NESTED = (
    *("clinical", "quality", "probabilities", "positives", "certainties"),
    *("note_traits", "shares"),
)
"""Fields of a record with a value for each feature, finding or trait."""
PREDICTIONS = _chained(
    "predictions",
    "record_id",
    Column("erased_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("task", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("study_hash", String(64), nullable=False),
    Column("patient_hash", String(64)),
    Column("modalities", JSON, nullable=False),
    Column("view", String(40)),
    *(Column(name, JSON, nullable=False) for name in NESTED),
    Column("latency_ms", Float),
    Column("source", String(40), nullable=False),
    Column("site", String(LONGEST_SITE), nullable=False),
    # Last, because SQLite reads a row from its start, and no further than it must.
    Column("image_embedding", Embedding),
    Column("note_embedding", Embedding),
    # Covers the index of a window and the counts of service, which then never touch the rows.
    Index(
        "predictions_by_time",
        *("task", "created_at", "position", "digest", "study_hash", "latency_ms", "source", "site"),
    ),
)
OUTCOMES = _chained(
    "outcomes",
    "outcome_id",
    Column("erased_at", UtcDateTime),
    Column("study_hash", String(64), nullable=False),
    Column("finding", String(200), nullable=False),
    Column("label", Integer, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("source", String(200), nullable=False),
    Column("comment", String(LONGEST_COMMENT), nullable=False),
    Index("outcomes_by_study", "study_hash", "finding"),
)
EVENTS = _chained(
    "events",
    "event_id",
    Column("erased_at", UtcDateTime),
    Column("created_at", UtcDateTime, nullable=False),
    Column("task", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("kind", String(40), nullable=False),
    Column("field", String(200), nullable=False),
    Column("source", String(40), nullable=False),
    Column("site", String(LONGEST_SITE), nullable=False),
    Index("events_by_time", "task", "created_at"),
)
AUDIT_LOG = _chained(
    "audit_log",
    "entry_id",
    Column("acted_at", UtcDateTime, nullable=False),
    Column("act", String(40), nullable=False),
    Column("tables", JSON, nullable=False),
)
"""What was done to rows that were there: by migration, erasure and retention."""

CHAINED = (PREDICTIONS, OUTCOMES, EVENTS, AUDIT_LOG)
IDENTITY = {table: table.c[table.info["identity"]] for table in CHAINED}
ERASED = "erased "
"""What the identity of a redacted row begins with; its position follows."""
MOMENT = {
    PREDICTIONS: PREDICTIONS.c.created_at,
    OUTCOMES: OUTCOMES.c.recorded_at,
    EVENTS: EVENTS.c.created_at,
}
"""When a row was made: what stays of it, with its place in the chain, when it is redacted."""

_EMPTY: dict[type[Any], Any] = {String: "", Integer: 0, JSON: {}}


def value_columns(table: Table) -> list[Column[Any]]:
    """Columns of a table with what was logged."""
    return [c for c in table.columns if c.name not in BOOKKEEPING]


def redacted_values(table: Table) -> dict[str, Any]:
    """Values of a redacted row, except for its time and identity."""
    return {
        c.name: None if c.nullable else _EMPTY[type(c.type)]
        for c in value_columns(table)
        if c is not IDENTITY[table] and c is not MOMENT[table]
    }
