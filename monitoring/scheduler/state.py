"""State of the schedule: windows, leases and alerts, as tables in the prediction log's database."""

import os
import secrets
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import (
    JSON,
    URL,
    Column,
    ColumnElement,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    and_,
    exists,
    func,
    insert,
    or_,
    select,
    update,
)
from sqlalchemy.engine import Engine
from sqlalchemy.exc import IntegrityError, ProgrammingError
from sqlalchemy.schema import CreateIndex, CreateTable

from cxr_mm.core.errors import LogError
from cxr_mm.core.record import LONGEST_SITE
from cxr_mm.core.verdict import Verdict
from cxr_mm.prediction_log import open_log
from cxr_mm.prediction_log.database import checked_url, database_errors, is_refused, open_engine
from cxr_mm.prediction_log.partitions import keep_ahead
from cxr_mm.prediction_log.schema import UtcDateTime
from monitoring.scheduler.cron import Cron, Window
from monitoring.sites.aggregate import Aggregate

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
        LogError: there is no such log, or it cannot be opened.
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


class Lease:
    """The right to run the windows of a task.

    Args:
        state: the database.
        task: whose windows.
        seconds: after which a lease that is not renewed ends.
    """

    def __init__(self, state: State, task: str, seconds: float = 60.0) -> None:
        self._state, self._task, self._seconds = state, task, seconds
        self.holder = ""
        """Id of this holding; new each time, so that leftovers of an earlier one are visible."""
        self.lost = threading.Event()
        """Set when another runner may hold it."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> str | None:
        """Take the lease; returns None on success, else the holder and its end.

        Raises:
            LogError: the database cannot be used.
        """
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        with database_errors(self._state.url):
            if not self._renewed(free_only=True) and not self._begun():
                return self._other()
        self.lost.clear()
        self._ended.clear()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        self._thread.start()
        return None

    def release(self) -> None:
        """Release the lease.

        Raises:
            LogError: the database cannot be used; it then ends by itself.
        """
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        mine = (RUNNERS.c.task == self._task) & (RUNNERS.c.holder == self.holder)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            connection.execute(update(RUNNERS).where(mine).values(holder=None, expires=None))

    def _keep(self) -> None:
        """Renew the lease three times per length; lost if no renewal succeeds."""
        good_until = datetime.now(UTC) + timedelta(seconds=self._seconds)
        while not self._ended.wait(self._seconds / 3):
            now = datetime.now(UTC)
            try:
                with database_errors(self._state.url):
                    still_mine = self._renewed(free_only=False)
            except LogError:
                still_mine = now < good_until
            else:
                good_until = now + timedelta(seconds=self._seconds)
            if not still_mine:
                self.lost.set()
                return

    def _renewed(self, *, free_only: bool) -> bool:
        now = datetime.now(UTC)
        free = or_(RUNNERS.c.holder.is_(None), RUNNERS.c.expires <= now)
        right = free if free_only else RUNNERS.c.holder == self.holder
        change = update(RUNNERS).where(RUNNERS.c.task == self._task, right)
        with self._state.engine.begin() as connection:
            done = connection.execute(change.values(holder=self.holder, expires=self._end(now)))
            return done.rowcount == 1

    def _begun(self) -> bool:
        """Insert the first lease of a task; False if a row exists."""
        first = {"task": self._task, "holder": self.holder, "expires": self._end(datetime.now(UTC))}
        try:
            with self._state.engine.begin() as connection:
                connection.execute(insert(RUNNERS), first)
        except IntegrityError:
            return False
        return True

    def _other(self) -> str:
        with self._state.engine.connect() as connection:
            row = connection.execute(select(RUNNERS).where(RUNNERS.c.task == self._task)).one()
        if row.holder is None:
            return "another runner, which has just ended"
        return f"{row.holder} until {row.expires:%H:%M:%S} UTC"

    def _end(self, now: datetime) -> datetime:
        return now + timedelta(seconds=self._seconds)


MOST_ATTEMPTS = 3
"""Runs of one window, the first included."""
LONGEST_MESSAGE = 2000
WindowStatus = Literal["waiting", "running", "done", "failed"]
"""A failed window is tried again while attempts are left; a killed one stays `running`."""


@dataclass(frozen=True)
class PendingWindow:
    """A window that is to be run."""

    window_id: int
    digest: str
    window: Window
    folder: str | None
    """Folder of an earlier attempt."""


class Windows:
    """The windows of one task.

    Args:
        state: the database.
        task: its name.

    Every method raises LogError where the database cannot be used.
    """

    def __init__(self, state: State, task: str) -> None:
        self._state, self._task = state, task

    def add(self, digest: str, windows: Iterable[Window]) -> None:
        """Add windows to run; known ones stay unchanged."""
        for window in windows:
            key = {"since": window.since, "until": window.until, "digest": digest}
            row = {"task": self._task, "status": "waiting", "attempts": 0, **key}
            try:
                with database_errors(self._state.url), self._state.engine.begin() as connection:
                    known = connection.scalar(
                        select(WINDOWS.c.window_id).where(self._own(), *_equal(key))
                    )
                    if known is None:
                        connection.execute(insert(WINDOWS), row)
            except LogError as error:
                if not is_refused(error):
                    raise  # otherwise another process has just added it

    def last_end(self, digest: str, *, done: bool = False) -> datetime | None:
        """End of the newest window known of a model, or of the newest that has a verdict."""
        query = select(func.max(WINDOWS.c.until)).where(self._own(), WINDOWS.c.digest == digest)
        if done:
            query = query.where(WINDOWS.c.status == "done")
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            newest: datetime | None = connection.scalar(query)
        return newest

    def pending(self, digest: str, holder: str) -> list[PendingWindow]:
        """Windows that the holder of the lease may run, oldest first."""
        query = (
            select(WINDOWS)
            .where(self._own(), WINDOWS.c.digest == digest, _free(holder))
            .order_by(WINDOWS.c.until, WINDOWS.c.since)
        )
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return [
                PendingWindow(row.window_id, row.digest, Window(row.since, row.until), row.folder)
                for row in connection.execute(query)
            ]

    def claim(self, pending: PendingWindow, holder: str, folder: str) -> bool:
        """Take a window, in one statement that also checks the lease; False where it is gone."""
        now = datetime.now(UTC)
        lease = exists().where(
            RUNNERS.c.task == self._task, RUNNERS.c.holder == holder, RUNNERS.c.expires > now
        )
        values = {
            "status": "running",
            "holder": holder,
            "folder": folder,
            "started": now,
            "attempts": WINDOWS.c.attempts + 1,
        }
        return self._change(
            and_(WINDOWS.c.window_id == pending.window_id, _free(holder), lease), values
        )

    def finish(
        self,
        pending: PendingWindow,
        holder: str,
        verdict: Verdict,
        aggregates: Mapping[str, Aggregate],
    ) -> bool:
        """Store the verdict and the aggregates of a window; False if the holder has lost it."""
        values = {"status": "done", "verdict": verdict.model_dump(mode="json"), "message": None}
        rows = [
            {
                "window_id": pending.window_id,
                "site": site,
                "content": aggregate.model_dump(mode="json"),
            }
            for site, aggregate in aggregates.items()
        ]
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            change = update(WINDOWS).where(_running(pending, holder))
            done = connection.execute(change.values(finished=datetime.now(UTC), **values))
            if done.rowcount and rows:
                connection.execute(insert(AGGREGATED), rows)
            return done.rowcount > 0

    def fail(self, pending: PendingWindow, holder: str, message: str) -> bool:
        """Store the error of a window; False if the holder has lost it."""
        text = message[-LONGEST_MESSAGE:]
        return self._end(pending, holder, {"status": "failed", "message": text})

    def release(self, pending: PendingWindow, holder: str) -> bool:
        """Release a window whose report was stopped from outside; not counted as an attempt."""
        values = {"status": "waiting", "attempts": WINDOWS.c.attempts - 1}
        return self._end(pending, holder, values)

    def give_up(self, holder: str) -> None:
        """Mark windows as failed whose runner was killed in every attempt."""
        killed = and_(
            self._own(),
            WINDOWS.c.status == "running",
            WINDOWS.c.holder != holder,
            WINDOWS.c.attempts >= MOST_ATTEMPTS,
        )
        message = f"the runner ended in the middle of it, {MOST_ATTEMPTS} times"
        self._change(killed, {"status": "failed", "message": message})

    def folder_taken(self, folder: str) -> bool:
        """Whether another window was written there."""
        query = select(WINDOWS.c.window_id).where(self._own(), WINDOWS.c.folder == folder)
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return connection.scalar(query) is not None

    def remember_schedule(self, cron: Cron) -> None:
        """Store the cron line, for `status`."""
        change = update(RUNNERS).where(RUNNERS.c.task == self._task)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            connection.execute(change.values(cron=cron.line, timezone=cron.timezone))

    def _own(self) -> ColumnElement[bool]:
        return WINDOWS.c.task == self._task

    def _end(self, pending: PendingWindow, holder: str, values: dict[str, Any]) -> bool:
        values = {"finished": datetime.now(UTC), **values}
        return self._change(_running(pending, holder), values)

    def _change(self, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            return connection.execute(update(WINDOWS).where(which).values(**values)).rowcount > 0


def _running(pending: PendingWindow, holder: str) -> ColumnElement[bool]:
    """The window, as long as it is the holder's."""
    c = WINDOWS.c
    mine = c.window_id == pending.window_id
    return and_(mine, c.status == "running", c.holder == holder)


def _free(holder: str) -> ColumnElement[bool]:
    """Not running: the holder of the lease knows that any other runner has ended."""
    killed = and_(WINDOWS.c.status == "running", WINDOWS.c.holder != holder)
    open_ = WINDOWS.c.status.in_(("waiting", "failed"))
    return and_(or_(open_, killed), WINDOWS.c.attempts < MOST_ATTEMPTS)


@dataclass(frozen=True)
class StoredAggregate:
    """The aggregate of one site in one finished window of a model."""

    digest: str
    site: str
    window: Window
    content: Aggregate


AT_ONCE = 200
"""Aggregates that are in memory at the same time."""


def read_aggregates(
    state: State, task: str, since: datetime, until: datetime
) -> Iterator[StoredAggregate]:
    """Aggregates of the windows of a task that end after `since`, up to `until`, in order.

    Raises:
        LogError: the database cannot be used, or an aggregate is of another version.
    """
    c = WINDOWS.c
    query = (
        select(c.digest, AGGREGATED.c.site, c.since, c.until, AGGREGATED.c.content)
        .join_from(WINDOWS, AGGREGATED, c.window_id == AGGREGATED.c.window_id)
        .where(c.task == task, c.until > since, c.until <= until)
        .order_by(c.until, c.digest, AGGREGATED.c.site)
        .execution_options(yield_per=AT_ONCE)
    )
    with database_errors(state.url), state.engine.connect() as connection:
        for row in connection.execute(query):
            window = Window(row.since, row.until)
            yield StoredAggregate(row.digest, row.site, window, _aggregate(row.content, window))


def _aggregate(content: Any, window: Window) -> Aggregate:
    try:
        return Aggregate.model_validate(content)
    except ValidationError as error:
        raise LogError(
            "was stored by another version",
            field=f"window until {window.until:%Y-%m-%d %H:%M}",
            remedy="Ask for windows after it: --since",
        ) from error


def _equal(key: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [WINDOWS.c[name] == value for name, value in key.items()]
