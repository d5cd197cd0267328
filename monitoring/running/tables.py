"""Tables: what the schedule remembers, in the database of the prediction log."""

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import (
    JSON,
    URL,
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

from cxr_mm.prediction_log import open_log
from cxr_mm.prediction_log.database import checked_url, database_errors, open_engine
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
    Column("attempts", Integer, nullable=False, default=0),
    UniqueConstraint("task", "digest", "since", "until"),
    Index("monitoring_windows_by_end", "task", "until"),
)
RUNNERS = Table(
    "monitoring_runners",
    METADATA,
    Column("task", String(200), primary_key=True),
    Column("holder", String(200)),
    Column("expires", UtcDateTime),
    Column("cron", String(200)),
    Column("timezone", String(100)),
)
ALERTS = Table(
    "monitoring_alerts",
    METADATA,
    Column("channel", String(20), primary_key=True),
    Column("task", String(200), primary_key=True),
    Column("said", Text, nullable=False),
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
        LogError: there is no such log, or it cannot be opened.
    """
    open_log(log, create=False, secret=False).close()
    url = checked_url(log)
    state = State(open_engine(url), url)
    with database_errors(url):
        # PostgreSQL's IF NOT EXISTS fails in the one of two that makes a table at the same moment.
        with suppress(IntegrityError, ProgrammingError):
            _create(state.engine)
        _create(state.engine)
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
