"""Tables of the prediction log: their columns are the fields of PredictionRecord and Outcome."""

from collections.abc import Sequence
from datetime import UTC, datetime

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
from sqlalchemy.types import TypeDecorator

from cxr_mm.contracts.record import LONGEST_COMMENT
from cxr_mm.errors import LogError

SCHEMA_VERSION = "2"
FORMER_VERSION = "1"


def aware(moment: datetime) -> datetime:
    """The moment, if it says its UTC offset.

    Raises:
        LogError: it does not.
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


class Embedding(TypeDecorator[Sequence[float]]):
    """A vector as little-endian float32 bytes."""

    impl = LargeBinary
    cache_ok = True

    def process_bind_param(self, value: Sequence[float] | None, dialect: Dialect) -> bytes | None:  # noqa: ARG002
        return None if value is None else np.asarray(value, dtype="<f4").tobytes()

    def process_result_value(self, value: bytes | None, dialect: Dialect) -> list[float] | None:  # noqa: ARG002
        return None if value is None else np.frombuffer(value, dtype="<f4").tolist()


METADATA = MetaData()
ABOUT = Table(
    "log_about",
    METADATA,
    Column("name", String(40), primary_key=True),
    Column("value", String(200), nullable=False),
)
PREDICTIONS = Table(
    "predictions",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("record_id", String(64), nullable=False, unique=True),
    Column("created_at", UtcDateTime, nullable=False),
    Column("task", String(200), nullable=False),
    Column("model", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("study_hash", String(64), nullable=False),
    Column("patient_hash", String(64)),
    Column("modalities", JSON, nullable=False),
    Column("view", String(40)),
    Column("clinical", JSON, nullable=False),
    Column("quality", JSON, nullable=False),
    Column("image_embedding", Embedding),
    Column("note_embedding", Embedding),
    Column("probabilities", JSON, nullable=False),
    Column("positives", JSON, nullable=False),
    Column("latency_ms", Float),
    Index("predictions_by_time", "task", "created_at"),
)
OUTCOMES = Table(
    "outcomes",
    METADATA,
    Column("position", Integer, primary_key=True, autoincrement=True),
    Column("outcome_id", String(64), nullable=False, unique=True),
    Column("study_hash", String(64), nullable=False),
    Column("finding", String(200), nullable=False),
    Column("label", Integer, nullable=False),
    Column("recorded_at", UtcDateTime, nullable=False),
    Column("source", String(200), nullable=False),
    Column("comment", String(LONGEST_COMMENT), nullable=False),
    Index("outcomes_by_study", "study_hash", "finding"),
)
RECORD_COLUMNS = [c for c in PREDICTIONS.columns if c.name != "position"]
OUTCOME_COLUMNS = [c for c in OUTCOMES.columns if c.name != "position"]
FORMER_OUTCOME_COLUMNS = [c for c in OUTCOME_COLUMNS if c.name not in ("outcome_id", "comment")]
"""Those that a log of the former version has."""
