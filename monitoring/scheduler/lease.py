"""Lease: the right to a row of the database until a moment, which its holder puts off."""

import os
import secrets
import socket
import threading
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import ColumnElement, Table, or_, true, update

from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.database import database_errors
from monitoring.scheduler.state import State


class Lease:
    """The right to a row, for one holder; to be taken once.

    Args:
        state: the database.
        table: has the columns `holder` and `expires`.
        row: which row.
        seconds: after which a lease that is not renewed ends.
    """

    def __init__(
        self, state: State, table: Table, row: ColumnElement[bool], seconds: float
    ) -> None:
        self._state, self._table, self._row, self._seconds = state, table, row, seconds
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}"
        """Id of this holding, so that leftovers of an earlier one are visible."""
        self.lost = threading.Event()
        """Set when another may hold it."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def take(self, condition: ColumnElement[bool] | None = None, **values: Any) -> bool:
        """Take the lease and change the row, in one statement; False where it is not free.

        Args:
            condition: of the row, without which it is not taken either.
            **values: other columns that change with it.

        Raises:
            LogError: the database cannot be used, or refuses the values.
        """
        expires = self._table.c.expires
        free = or_(expires.is_(None), expires <= datetime.now(UTC))
        wanted = free & (true() if condition is None else condition)
        if not self._changed(wanted, holder=self.holder, expires=self._end(), **values):
            return False
        self._thread.start()
        return True

    def release(self) -> None:
        """Release the lease.

        Raises:
            LogError: the database cannot be used; it then ends by itself.
        """
        self._ended.set()
        self._thread.join()
        self._changed(self._mine, expires=None)

    def _keep(self) -> None:
        """Renew the lease three times per length; lost if no renewal succeeds."""
        good_until = self._end()
        while not self._ended.wait(self._seconds / 3):
            end = self._end()
            try:
                still_mine = self._changed(self._mine, expires=end)
            except LogError:
                still_mine = datetime.now(UTC) < good_until
            else:
                good_until = end
            if not still_mine:
                self.lost.set()
                return

    @property
    def _mine(self) -> ColumnElement[bool]:
        return self._table.c.holder == self.holder

    def _changed(self, condition: ColumnElement[bool], **values: Any) -> bool:
        change = update(self._table).where(self._row, condition).values(**values)
        with database_errors(self._state.url), self._state.engine.begin() as connection:
            return connection.execute(change).rowcount == 1

    def _end(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=self._seconds)
