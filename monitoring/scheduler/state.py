"""State of the schedule: windows, leases and alerts, as tables in the prediction log's database."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    JSON,
    URL,
    Boolean,
    Column,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.schema import CreateIndex, CreateTable

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import LONGEST_SITE
from cxr_mm.prediction_log import open_log
from cxr_mm.prediction_log.database import (
    checked_url,
    database_errors,
    lacking_columns,
    open_engine,
    public_url,
)
from cxr_mm.prediction_log.partitions import keep_ahead
from cxr_mm.prediction_log.schema import UtcDateTime

METADATA = MetaData()
WINDOWS = Table(
    "monitoring_windows",
    METADATA,
    Column("window_id", Integer, primary_key=True, autoincrement=True),
    Column("task", String(200), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("since", UtcDateTime, nullable=False),
    Column("until", UtcDateTime, nullable=False),
    Column("status", String(10), nullable=False),
    Column("verdict", JSON),
    Column("folder", Text),
    Column("message", Text),
    Column("started", UtcDateTime),
    Column("finished", UtcDateTime),
    Column("holder", String(200)),
    Column("expires", UtcDateTime),
    Column("attempts", Integer, nullable=False, default=0),
    Column("alerting", Boolean, nullable=False),
    UniqueConstraint("task", "digest", "since", "until"),
    UniqueConstraint("task", "folder"),
    Index("monitoring_windows_by_end", "task", "until"),
)
"""Every window of a model; whoever reports it has its lease (`holder`, `expires`)."""
RUNNERS = Table(
    "monitoring_runners",
    METADATA,
    Column("task", String(200), primary_key=True),
    Column("holder", String(200)),
    Column("expires", UtcDateTime),
    Column("cron", String(200)),
    Column("timezone", String(100)),
)
"""Schedule of each task; whoever sends its alerts and removes its old reports has the lease."""
AGGREGATED = Table(
    "monitoring_aggregates",
    METADATA,
    Column("window_id", Integer, primary_key=True, autoincrement=False),
    Column("site", String(LONGEST_SITE), primary_key=True),
    Column("content", JSON, nullable=False),
)
"""What each finished window was, by site: an `Aggregate`."""
ALERTS = Table(
    "monitoring_alerts",
    METADATA,
    Column("channel", String(20), primary_key=True),
    Column("task", String(200), primary_key=True),
    Column("content", Text, nullable=False),
)
WAITING_ALERTS = Table(
    "monitoring_waiting_alerts",
    METADATA,
    Column("alert_id", Integer, primary_key=True, autoincrement=True),
    Column("channel", String(20), nullable=False),
    Column("task", String(200), nullable=False),
    Column("notice", JSON, nullable=False),
)


@dataclass(frozen=True)
class State:
    """The opened database; `url` names it in errors."""

    engine: Engine
    url: URL

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()


def open_state(log: str) -> State:
    """Open the database of a log, and make the tables that are not there.

    Raises:
        LogError: there is no such log, it cannot be opened, or a development version made its
            tables.
    """
    open_log(log, create=False, secret=False).close()
    url = checked_url(log)
    state = State(open_engine(url), url)
    with database_errors(url):
        keep_ahead(state.engine)
        # PostgreSQL's IF NOT EXISTS fails in the one of two that makes a table at the same moment.
        with suppress(IntegrityError, ProgrammingError):
            _create(state.engine)
        _create(state.engine)
        lacking = lacking_columns(state.engine, METADATA)
    if lacking:
        state.close()
        raise LogError(
            f"a development version made tables that lack {', '.join(lacking)}",
            field=public_url(url),
            remedy="Drop the tables whose names begin with monitoring_, and backfill their windows",
        )
    return state


def _create(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in METADATA.sorted_tables:
            connection.execute(CreateTable(table, if_not_exists=True))
            for index in table.indexes:
                connection.execute(CreateIndex(index, if_not_exists=True))


def moment_of(value: datetime | None) -> str | None:
    """A moment as JSON has it."""
    return None if value is None else value.isoformat(timespec="seconds")
