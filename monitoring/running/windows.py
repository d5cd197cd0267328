"""Windows in the database: what is due, what was said of it, and that nothing is run twice."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from sqlalchemy import ColumnElement, and_, exists, func, insert, or_, select, update

from cxr_mm.contracts.verdict import Verdict
from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import database_errors, is_refused
from monitoring.running.cron import Cron, Window
from monitoring.running.tables import RUNNERS, WINDOWS, State

MOST_ATTEMPTS = 3
"""Runs of one window, the first included."""
LONGEST_MESSAGE = 2000
WindowStatus = Literal["waiting", "running", "done", "failed"]
"""A failed window is tried again while attempts are left; a killed one stays `running`."""


@dataclass(frozen=True)
class Due:
    """A window that is to be run."""

    window_id: int
    digest: str
    window: Window
    folder: str | None
    """Where an earlier attempt would have written."""


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
        """Remember windows that are to be run; those known stay as they are."""
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
            found: datetime | None = connection.scalar(query)
        return found

    def due(self, digest: str, holder: str) -> list[Due]:
        """Windows that the holder of the lease may run, oldest first."""
        query = (
            select(WINDOWS)
            .where(self._own(), WINDOWS.c.digest == digest, _free(holder))
            .order_by(WINDOWS.c.until, WINDOWS.c.since)
        )
        with database_errors(self._state.url), self._state.engine.connect() as connection:
            return [
                Due(row.window_id, row.digest, Window(row.since, row.until), row.folder)
                for row in connection.execute(query)
            ]

    def claim(self, due: Due, holder: str, folder: str) -> bool:
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
            and_(WINDOWS.c.window_id == due.window_id, _free(holder), lease), values
        )

    def finish(self, due: Due, holder: str, verdict: Verdict) -> bool:
        """Keep what was said of a window; False where it is no longer this holder's."""
        said = verdict.model_dump(mode="json")
        return self._end(due, holder, {"status": "done", "verdict": said, "message": None})

    def fail(self, due: Due, holder: str, message: str) -> bool:
        """Keep why a window could not be reported."""
        text = message[-LONGEST_MESSAGE:]
        return self._end(due, holder, {"status": "failed", "message": text})

    def release(self, due: Due, holder: str) -> bool:
        """Give back a window whose report was stopped from outside: no attempt of its own."""
        values = {"status": "waiting", "attempts": WINDOWS.c.attempts - 1}
        return self._end(due, holder, values)

    def give_up(self, holder: str) -> None:
        """Count those as failed whose runner was killed each time."""
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
        """Keep by which line the windows are cut, for `status`."""
        change = update(RUNNERS).where(RUNNERS.c.task == self._task)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            connection.execute(change.values(cron=cron.line, timezone=cron.timezone))

    def _own(self) -> ColumnElement[bool]:
        return WINDOWS.c.task == self._task

    def _end(self, due: Due, holder: str, values: dict[str, Any]) -> bool:
        mine = and_(
            WINDOWS.c.window_id == due.window_id,
            WINDOWS.c.status == "running",
            WINDOWS.c.holder == holder,
        )
        return self._change(mine, {"finished": datetime.now(UTC), **values})

    def _change(self, which: ColumnElement[bool], values: dict[str, Any]) -> bool:
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            return connection.execute(update(WINDOWS).where(which).values(**values)).rowcount > 0


def _free(holder: str) -> ColumnElement[bool]:
    """Nobody runs it: whoever has the lease knows that any other runner has ended."""
    killed = and_(WINDOWS.c.status == "running", WINDOWS.c.holder != holder)
    open_ = WINDOWS.c.status.in_(("waiting", "failed"))
    return and_(or_(open_, killed), WINDOWS.c.attempts < MOST_ATTEMPTS)


def _equal(key: dict[str, Any]) -> list[ColumnElement[bool]]:
    return [WINDOWS.c[name] == value for name, value in key.items()]
