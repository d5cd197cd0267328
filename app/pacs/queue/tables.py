"""Tables of the queue: what was received, what is to be delivered, what was counted, and who is
away."""

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Connection,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.database import lacking_columns, public_url
from cxr_mm.prediction_log.schema import UtcDateTime

LONGEST_REASON = 400
METADATA = MetaData()


def _work() -> tuple[Column[object], ...]:
    """Columns of a row that is worked on: when, by whom, how often, with what result."""
    return (
        Column("state", String(16), nullable=False),
        Column("reason", String(LONGEST_REASON), nullable=False, default=""),
        Column("attempts", Integer, nullable=False, default=0),
        Column("next_at", UtcDateTime, nullable=False),
        Column("claimed_by", String(64)),
    )


RECEIVED = Table(
    "received",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("sop_instance_uid", String(64)),
    Column("sop_class_uid", String(64)),
    Column("peer", String(64), nullable=False),
    Column("file", String(80)),
    Column("content", String(64), nullable=False),
    Column("priority", Integer, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
    Column("interrupted", Integer, nullable=False, default=0),
    Column("digest", String(64), nullable=False, default=""),
    Column("answered_at", UtcDateTime),
    Column("task", String(64), nullable=False, default=""),
    Column("suspicion", Float),
    Column("findings", JSON, nullable=False, default=list),
    *_work(),
    Index("received_by_turn", "state", "claimed_by", "priority", "interrupted", "received_at"),
)
"""One row for each SOP instance; `key` is the SHA-256 of its UID and outlives the UID."""
DELIVERIES = Table(
    "deliveries",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("received_id", ForeignKey("received.id"), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("destination", String(64), nullable=False),
    Column("kind", String(16), nullable=False),
    Column("sop_instance_uid", String(64)),
    Column("file", String(80)),
    Column("sent_at", UtcDateTime),
    Column("commitment", String(64)),
    *_work(),
    UniqueConstraint("received_id", "digest", "destination", "kind"),
    Index("deliveries_by_turn", "destination", "state", "claimed_by", "next_at"),
)
"""One row for each object and destination: exactly once for a SOP instance and a model.

State is `waiting`, `stored` (`commitment` is the transaction whose report is awaited), `sent` or
`committed`, or `dead`.
"""
DELIVERED = ("sent", "committed")
COUNTS = Table(
    "counts",
    METADATA,
    Column("what", String(64), primary_key=True),
    Column("peer", String(64), primary_key=True),
    Column("number", Integer, nullable=False),
    Column("last_at", UtcDateTime, nullable=False),
)
"""Refusals and repeats, by reason and peer."""
FACTS = Table(
    "facts",
    METADATA,
    Column("id", Integer, primary_key=True),
    Column("key", String(64), nullable=False, unique=True),
    Column("patient_key", String(64), nullable=False, index=True),
    Column("accession_key", String(64), nullable=False, index=True),
    Column("code", String(64), nullable=False),
    Column("value", Text, nullable=False),
    Column("unit", String(32), nullable=False),
    Column("at", UtcDateTime, nullable=False),
    Column("received_at", UtcDateTime, nullable=False),
)
"""Clinical values that arrived; ids of patients and studies are keyed hashes, empty for none."""
AWAITING = Table(
    "awaiting",
    METADATA,
    Column("received_id", ForeignKey("received.id"), primary_key=True),
    Column("patient_key", String(64), nullable=False, index=True),
    Column("accession_key", String(64), nullable=False, index=True),
    Column("until", UtcDateTime, nullable=False),
)
"""Images that wait for clinical context, or would be answered again with it, until then."""
CURSORS = Table(
    "cursors",
    METADATA,
    Column("peer", String(64), primary_key=True),
    Column("since", UtcDateTime, nullable=False),
)
"""Beginning of the last look at an archive that fetched all it found."""
FETCHES = Table(
    "fetches",
    METADATA,
    Column("peer", String(64), primary_key=True),
    Column("key", String(64), primary_key=True),
    Column("attempts", Integer, nullable=False),
    Column("next_at", UtcDateTime, nullable=False),
    Column("given_up", Boolean, nullable=False),
)
"""Objects of an archive that could not be fetched; `key` as in `received`."""
PEERS = Table(
    "peers",
    METADATA,
    Column("name", String(64), primary_key=True),
    Column("trouble", String(LONGEST_REASON), nullable=False),
    Column("since", UtcDateTime, nullable=False),
)
"""Whether a destination can be reached, since when; `trouble` says why not, and is empty else."""
ALERTS = Table(
    "alerts",
    METADATA,
    Column("cause", String(80), primary_key=True),
    Column("notice_id", String(64), nullable=False),
    Column("text", String(LONGEST_REASON), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("over", Boolean, nullable=False),
    Column("channels", JSON, nullable=False),
)
"""What a person is told of: one row for each cause, and the channels that do not have it yet."""


def check_columns(connection: Connection, url: URL) -> None:
    """Refuse a queue of another version.

    Raises:
        LogError: a table lacks a column.
    """
    if lacking := lacking_columns(connection, METADATA):
        raise LogError(
            f"another version made the queue, which lacks {', '.join(lacking)}",
            field=public_url(url),
            remedy="Drain it with the version that made it, or name a new one",
        )
