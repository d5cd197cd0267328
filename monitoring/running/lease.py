"""Lease: one runner of a task at a time, also across machines whose clocks agree to some seconds.

The holder renews the lease from a thread of its own; whoever was killed loses it by itself.
"""

import os
import secrets
import socket
import threading
from datetime import UTC, datetime, timedelta

from sqlalchemy import insert, or_, select, update
from sqlalchemy.exc import IntegrityError

from cxr_mm.errors import LogError
from cxr_mm.prediction_log.database import database_errors
from monitoring.running.tables import RUNNERS, State


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
        """Who has it: another name each time, so that what an earlier time left behind shows."""
        self.lost = threading.Event()
        """Set when another may have it."""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None

    def take(self) -> str | None:
        """Take it; None where that worked, else who holds it and until when.

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

    def give_back(self) -> None:
        """Let others have it at once.

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
        """Renew it three times in its length; lost where none of them gets through."""
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
        """The first lease of a task; False where it has had one."""
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
