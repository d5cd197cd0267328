"""How far an archive was looked through, and what of it could not be fetched; in the queue's
database, so that the next start goes on from there."""

from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, and_, delete, select, update

from app.pacs.queue import Queue, uid_key
from app.pacs.queue.store import INSERT
from app.pacs.queue.tables import CURSORS, FETCHES

KEPT_DAYS = 400
"""For which a failed fetch is remembered; longer than any overlap."""


class Cursor:
    """State of one archive.

    Args:
        queue: in whose database it is kept.
        peer: name of the archive.
    """

    def __init__(self, queue: Queue, peer: str) -> None:
        self._queue, self._peer = queue, peer

    @property
    def since(self) -> datetime | None:
        """Beginning of the last complete look; None before the first.

        Raises:
            LogError: the database cannot be used.
        """
        with self._queue.reading() as connection:
            found: datetime | None = connection.scalar(
                select(CURSORS.c.since).where(CURSORS.c.peer == self._peer)
            )
        return found

    def advance(self, began: datetime) -> None:
        """Note that a look which began then has fetched all it found.

        Raises:
            LogError: the database cannot be used.
        """
        row = {"peer": self._peer, "since": began}
        old = delete(FETCHES).where(
            FETCHES.c.peer == self._peer, FETCHES.c.next_at < began - timedelta(days=KEPT_DAYS)
        )
        with self._queue.transaction() as connection:
            insert = INSERT[connection.dialect.name](CURSORS).values(row)
            connection.execute(
                insert.on_conflict_do_update(index_elements=["peer"], set_={"since": began})
            )
            connection.execute(old)

    def is_due(self, uid: str) -> bool | None:
        """Whether an object is to be fetched now: None where it waits for its next attempt.

        Raises:
            LogError: the database cannot be used.
        """
        with self._queue.reading() as connection:
            row = connection.execute(select(FETCHES).where(self._one(uid))).one_or_none()
        if row is None:
            return True
        if row.given_up:
            return False
        return True if row.next_at <= self._queue.clock() else None

    def failed(self, uid: str, pause: float, most: int) -> bool:
        """Note that an object could not be fetched; True where it is given up.

        Args:
            pause: seconds before the next attempt.
            most: attempts, after which it is given up.

        Raises:
            LogError: the database cannot be used.
        """
        c, row_of = FETCHES.c, {"peer": self._peer, "key": uid_key(uid)}
        when = self._queue.clock() + timedelta(seconds=pause)
        new = row_of | {"attempts": 0, "next_at": when, "given_up": False}
        with self._queue.transaction() as connection:
            insert = INSERT[connection.dialect.name](FETCHES).values(new)
            connection.execute(insert.on_conflict_do_nothing())
            changed = {"attempts": c.attempts + 1, "next_at": when}
            changed["given_up"] = c.attempts + 1 >= most
            connection.execute(update(FETCHES).where(self._one(uid)).values(changed))
            given_up = connection.scalar(select(c.given_up).where(self._one(uid)))
        return bool(given_up)

    def fetched(self, uid: str) -> None:
        """Forget earlier failures.

        Raises:
            LogError: the database cannot be used.
        """
        with self._queue.transaction() as connection:
            connection.execute(delete(FETCHES).where(self._one(uid)))

    def _one(self, uid: str) -> ColumnElement[bool]:
        return and_(FETCHES.c.peer == self._peer, FETCHES.c.key == uid_key(uid))
