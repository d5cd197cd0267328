"""Windows of a task: which are to be run, who runs each, and what came of it.

Several runners share them: each has the lease of the window that it runs. A report may be at work
while that of the window before is, but decides only when that one has a verdict.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, insert, or_, select, update
from sqlalchemy.engine import Connection

from cxr_mm.core.errors import LogError
from cxr_mm.core.verdict import Verdict
from cxr_mm.prediction_log.database import database_errors, is_refused
from monitoring.scheduler.cron import Cron, Window
from monitoring.scheduler.lease import Lease
from monitoring.scheduler.state import AGGREGATED, RUNNERS, WINDOWS, State
from monitoring.sites.aggregate import Aggregate

MOST_ATTEMPTS = 3
"""Runs of one window, the first included."""
LONGEST_MESSAGE = 2000
WindowStatus = Literal["waiting", "running", "done", "failed"]
"""A failed window is tried again while attempts are left; a killed one stays `running`."""
Also = Callable[[Connection], None]
"""What is written in the transaction of a change, if that is made."""


@dataclass(frozen=True)
class PendingWindow:
    """A window that is to be run."""

    window_id: int
    digest: str
    window: Window
    folder: str | None
    """Folder of an earlier attempt."""
    alerting: bool
    """Whether anyone is alerted of it."""


@dataclass(frozen=True)
class EarlierWindow:
    """A window without a verdict that a later one may have to wait for.

    Args:
        window: its bounds.
        held: whether a runner is at it.
    """

    window: Window
    held: bool


class Windows:
    """The windows of one task.

    Args:
        state: the database.
        task: its name.
        seconds: length of a lease.

    Every method raises LogError where the database cannot be used.
    """

    def __init__(self, state: State, task: str, seconds: float = 60.0) -> None:
        self._state, self._task, self._seconds = state, task, seconds

    def add(self, digest: str, windows: Iterable[Window], *, alerting: bool) -> None:
        """Add windows to run; known ones stay unchanged."""
        self._begin(RUNNERS, {"task": self._task}, {"task": self._task})
        query = select(WINDOWS.c.since, WINDOWS.c.until)
        query = query.where(self._own(), WINDOWS.c.digest == digest)
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            known = {Window(row.since, row.until) for row in connection.execute(query)}
        for window in (each for each in windows if each not in known):
            key = {"since": window.since, "until": window.until, "digest": digest}
            row = {"task": self._task, "status": "waiting", "attempts": 0, **key}
            self._begin(WINDOWS, {"task": self._task, **key}, row | {"alerting": alerting})

    def last_end(self, digest: str, *, decided: bool = False) -> datetime | None:
        """End of the newest window known of a model, or of the newest that has a verdict."""
        query = select(func.max(WINDOWS.c.until)).where(self._own(), WINDOWS.c.digest == digest)
        if decided:
            query = query.where(WINDOWS.c.verdict.is_not(None))
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            newest: datetime | None = connection.scalar(query)
        return newest

    def pending(self, digest: str, began: datetime) -> list[PendingWindow]:
        """Windows that may be run in a pass that began then, oldest first."""
        query = (
            select(WINDOWS)
            .where(self._own(), WINDOWS.c.digest == digest, _open(began), _free())
            .order_by(WINDOWS.c.until, WINDOWS.c.since)
        )
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return [
                PendingWindow(
                    row.window_id,
                    row.digest,
                    Window(row.since, row.until),
                    row.folder,
                    row.alerting,
                )
                for row in connection.execute(query)
            ]

    def held(self, digest: str) -> dict[Window, str]:
        """Windows that runners are at, and who each is, until when."""
        unfinished = WINDOWS.c.status.in_(("waiting", "running"))  # waiting: just given back
        query = select(WINDOWS).where(self._own(), WINDOWS.c.digest == digest, unfinished, _live())
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return {
                Window(row.since, row.until): f"{row.holder} until {row.expires:%H:%M:%S} UTC"
                for row in connection.execute(query)
            }

    def claim(self, pending: PendingWindow, began: datetime, folder: str) -> Lease | None:
        """Take a window for a report in a folder; None where it is another's.

        Raises:
            LogError: as every method, or another window has that folder (`is_refused`).
        """
        lease = Lease(self._state, WINDOWS, WINDOWS.c.window_id == pending.window_id, self._seconds)
        taken = lease.take(
            _open(began),
            status="running",
            folder=folder,
            started=datetime.now(UTC),
            attempts=WINDOWS.c.attempts + 1,
        )
        return lease if taken else None

    def earlier(self, pending: PendingWindow) -> list[EarlierWindow]:
        """Windows of the model that end before this one begins, have no verdict and may get one."""
        coming = and_(
            WINDOWS.c.status.in_(("waiting", "running")), WINDOWS.c.attempts < MOST_ATTEMPTS
        )
        query = select(WINDOWS).where(
            self._before(pending), WINDOWS.c.verdict.is_(None), or_(coming, _live())
        )
        now = datetime.now(UTC)
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return [
                EarlierWindow(
                    Window(row.since, row.until), row.expires is not None and row.expires > now
                )
                for row in connection.execute(query)
            ]

    def verdict_before(self, pending: PendingWindow) -> Verdict | None:
        """The newest verdict of a window with studies that ends before this one begins."""
        query = (
            select(WINDOWS.c.verdict)
            .where(self._before(pending), WINDOWS.c.verdict.is_not(None))
            .order_by(WINDOWS.c.until.desc(), WINDOWS.c.since.desc())
            .execution_options(yield_per=1)  # it is nearly always the first of a year's
        )
        with (
            database_errors(self._state.url),
            self._state.engine.connect() as connection,
            connection.execute(query) as rows,
        ):
            verdicts = (Verdict.model_validate(row.verdict) for row in rows)
            return next((verdict for verdict in verdicts if verdict.last), None)

    def decide(
        self, pending: PendingWindow, holder: str, verdict: Verdict, also: Also | None
    ) -> bool:
        """Store the verdict of a window whose report is still written; False if it is lost."""
        return self._change(pending, holder, {"verdict": verdict.model_dump(mode="json")}, also)

    def finish(
        self, pending: PendingWindow, holder: str, aggregates: Mapping[str, Aggregate]
    ) -> bool:
        """Store the aggregates of a window that has a verdict; False if the holder has lost it."""
        rows = [
            {
                "window_id": pending.window_id,
                "site": site,
                "content": aggregate.model_dump(mode="json"),
            }
            for site, aggregate in aggregates.items()
        ]

        def store(connection: Connection) -> None:
            if rows:
                connection.execute(insert(AGGREGATED), rows)

        values = {"status": "done", "message": None, "finished": datetime.now(UTC)}
        return self._change(pending, holder, values, store)

    def fail(self, pending: PendingWindow, holder: str, message: str, also: Also | None) -> bool:
        """Store the error of a window; False if the holder has lost it."""
        text = message[-LONGEST_MESSAGE:]
        values = {"status": "failed", "message": text, "finished": datetime.now(UTC)}
        return self._change(pending, holder, values, also)

    def release(self, pending: PendingWindow, holder: str) -> bool:
        """Release a window whose report was stopped from outside; not counted as an attempt."""
        values = {"status": "waiting", "attempts": WINDOWS.c.attempts - 1}
        return self._change(pending, holder, values, None)

    def give_up(self) -> None:
        """Mark windows as failed whose runner was killed in every attempt."""
        killed = and_(
            self._own(),
            WINDOWS.c.status == "running",
            WINDOWS.c.attempts >= MOST_ATTEMPTS,
            _free(),
        )
        message = f"the runner ended in the middle of it, {MOST_ATTEMPTS} times"
        change = update(WINDOWS).where(killed).values(status="failed", message=message)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            connection.execute(change)

    def remember_schedule(self, cron: Cron) -> None:
        """Store the cron line, for `status`."""
        change = update(RUNNERS).where(RUNNERS.c.task == self._task)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            connection.execute(change.values(cron=cron.line, timezone=cron.timezone))

    def tidier(self) -> Lease:
        """The lease of whoever sends the alerts of the task or removes its old reports."""
        return Lease(self._state, RUNNERS, RUNNERS.c.task == self._task, self._seconds)

    def _begin(self, table: Any, key: dict[str, Any], row: dict[str, Any]) -> None:
        """Insert a row whose key is not there."""
        known = select(func.count()).select_from(table)
        known = known.where(*(table.c[name] == value for name, value in key.items()))
        try:
            with database_errors(self._state.url), self._state.engine.begin() as connection:
                if not connection.scalar(known):
                    connection.execute(insert(table), row)
        except LogError as error:
            if not is_refused(error):
                raise  # otherwise another process has just added it

    def _own(self) -> ColumnElement[bool]:
        return WINDOWS.c.task == self._task

    def _before(self, pending: PendingWindow) -> ColumnElement[bool]:
        c = WINDOWS.c
        return and_(self._own(), c.digest == pending.digest, c.until <= pending.window.since)

    def _change(
        self, pending: PendingWindow, holder: str, values: dict[str, Any], also: Also | None
    ) -> bool:
        """Change a window as long as it is the holder's, and do what else belongs to it."""
        c = WINDOWS.c
        mine = and_(c.window_id == pending.window_id, c.status == "running", c.holder == holder)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            changed = connection.execute(update(WINDOWS).where(mine).values(**values)).rowcount > 0
            if changed and also is not None:
                also(connection)
        return changed


def _free() -> ColumnElement[bool]:
    return or_(WINDOWS.c.expires.is_(None), WINDOWS.c.expires <= datetime.now(UTC))


def _live() -> ColumnElement[bool]:
    return WINDOWS.c.expires > datetime.now(UTC)


def _open(began: datetime) -> ColumnElement[bool]:
    """To be run, if it is free; what failed since the pass began is left to the next one."""
    failed = and_(WINDOWS.c.status == "failed", WINDOWS.c.finished < began)
    return and_(
        or_(WINDOWS.c.status.in_(("waiting", "running")), failed),
        WINDOWS.c.attempts < MOST_ATTEMPTS,
    )


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
