"""The durable queue between the network and the model; safe for threads and processes.

Every change is one transaction. A row is claimed by name before it is worked on. A claim that
outlives its process counts as an interruption, so that an image that ends the node is given up at
some time.
"""

import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import Table, and_, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection

from app.pacs.queue.rows import (
    Arrival,
    Delivery,
    Earlier,
    Ended,
    Outgoing,
    Received,
    Summary,
    uid_key,
)
from app.pacs.queue.tables import (
    COUNTS,
    DELIVERIES,
    LONGEST_REASON,
    METADATA,
    RECEIVED,
    check_columns,
)
from cxr_mm.core.errors import LogError
from cxr_mm.prediction_log.database import (
    BUSY_SECONDS,
    checked_url,
    database_errors,
    make_folder,
    open_engine,
    sqlite_file,
    write_ahead,
    writing,
)

TABLES_LOCK = zlib.crc32(b"tables of a queue")
"""PostgreSQL's number of the lock under which tables are made."""
INSERT: dict[str, Any] = {"sqlite": sqlite.insert, "postgresql": postgresql.insert}
"""Databases that a queue may be in, and how each inserts."""
PENDING = ("waiting", "stored")
"""States of deliveries that are sent when they are due: `stored` is, once its report is overdue."""
TURN = {1: 0, 0: 1, 2: 2}
"""DIMSE priority (high 1, medium 0, low 2; PS3.7 9.3.1.1) → rank in the queue."""


def _now() -> datetime:
    return datetime.now(UTC)


class Queue:
    """What was received, what is to be delivered, and what was counted.

    Args:
        url: SQLAlchemy URL; SQLite runs in WAL mode, and every commit survives a power cut.
        longest_pause: seconds beyond which no row waits; a row that would has been written before
            the clock was set back, and is due.
        clock: the time, with UTC offset.

    Raises:
        LogError: the database cannot be opened.
    """

    def __init__(
        self, url: str, longest_pause: float = 300.0, clock: Callable[[], datetime] = _now
    ) -> None:
        self._url, self.clock = checked_url(url), clock
        self._longest = timedelta(seconds=longest_pause)
        if self._url.get_backend_name() not in INSERT:
            raise LogError(
                "no queue can be in this database",
                field=self._url.drivername,
                remedy="Name SQLite or PostgreSQL",
            )
        if file := sqlite_file(url):
            make_folder(file)
        self._engine = open_engine(self._url)
        with database_errors(self._url):
            if self._engine.dialect.name == "sqlite":
                write_ahead(self._engine, BUSY_SECONDS)
            with writing(self._engine) as connection:
                if self._engine.dialect.name == "postgresql":
                    connection.execute(select(func.pg_advisory_xact_lock(TABLES_LOCK)))
                METADATA.create_all(connection)
                check_columns(connection, self._url)

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """A transaction, committed if the body succeeds.

        Raises:
            LogError: the database cannot be used.
        """
        with database_errors(self._url), writing(self._engine) as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        """A connection that holds up no writer.

        Raises:
            LogError: the database cannot be read.
        """
        with database_errors(self._url), self._engine.connect() as connection:
            yield connection

    # What was received

    def content_of(self, sop_instance_uid: str) -> str | None:
        """Digest of the file of a SOP instance that was received before; None if none was."""
        query = select(RECEIVED.c.content).where(RECEIVED.c.key == uid_key(sop_instance_uid))
        with self.reading() as connection:
            return connection.scalar(query)

    def add(self, arrival: Arrival) -> bool:
        """Add a row; False, and nothing changes, where the SOP instance is there already."""
        now, key = self.clock(), uid_key(arrival.sop_instance_uid)
        row = {
            "key": key,
            "sop_instance_uid": arrival.sop_instance_uid,
            "sop_class_uid": arrival.sop_class_uid,
            "peer": arrival.peer,
            "file": arrival.file,
            "content": arrival.content,
            "priority": TURN.get(arrival.priority, TURN[0]),
            "received_at": now,
            "next_at": now,
            "state": "received",
        }
        with self.transaction() as connection:
            return _insert_new(connection, RECEIVED, row)

    def claim(self, owner: str = "worker") -> Received | None:
        """Claim the received row whose turn it is: the most urgent, then the oldest that has not
        been interrupted.

        Args:
            owner: name of the one that claims.
        """
        c = RECEIVED.c
        query = select(RECEIVED).where(c.state == "received", self._due(RECEIVED))
        query = query.order_by(c.priority, c.interrupted, c.received_at, c.id).limit(1)
        with self.transaction() as connection:
            row = connection.execute(query.with_for_update(skip_locked=True)).one_or_none()
            if row is None:
                return None
            self._claim(connection, RECEIVED, [row.id], owner)
            received: Received = _value(Received, row, attempts=row.attempts + 1)
            return received

    def finish(
        self,
        received: Received,
        state: Ended,
        digest: str = "",
        reason: str = "",
        outgoing: Sequence[Outgoing] = (),
        summary: Summary | None = None,
        version: str = "",
    ) -> int:
        """End a received row, and add its deliveries, in one transaction.

        Args:
            digest: of the model; empty where none was asked.
            outgoing: what is to be delivered; what the queue has already stays as it is.
            summary: of the answer.
            version: digest of model and clinical context; empty is that of the model.

        Returns:
            How many deliveries are new.
        """
        now = self.clock()
        ended = {
            "state": state,
            "digest": digest,
            "reason": reason[:LONGEST_REASON],
            "claimed_by": None,
            "answered_at": now,
            "task": summary.task if summary else "",
            "suspicion": summary.suspicion if summary else None,
            "findings": list(summary.findings) if summary else [],
        }
        with self.transaction() as connection:
            connection.execute(_one(RECEIVED, received.id).values(ended))
            added = 0
            for each in outgoing:
                row = {
                    "received_id": received.id,
                    "digest": version or digest,
                    "destination": each.destination,
                }
                row |= {"kind": each.kind, "sop_instance_uid": each.sop_instance_uid}
                row |= {"file": each.file, "next_at": now, "state": "waiting"}
                added += _insert_new(connection, DELIVERIES, row)
            return added

    def postpone(self, received: Received, pause: float, reason: str) -> None:
        """Give a claimed row back, for another attempt after some seconds."""
        self._unclaim(RECEIVED, received.id, "received", pause, reason)

    def wait(self, received: Received, pause: float) -> None:
        """Give a claimed row back until something arrives for it, or for some seconds at most;
        that is no attempt."""
        when = self.clock() + min(timedelta(seconds=pause), self._longest)
        given = {"claimed_by": None, "next_at": when, "attempts": RECEIVED.c.attempts - 1}
        with self.transaction() as connection:
            connection.execute(_one(RECEIVED, received.id).values(given))

    def resume(self, received: Received) -> None:
        """Give a claimed row of an image back as answered, as it was."""
        was = {"state": "answered", "claimed_by": None}
        with self.transaction() as connection:
            connection.execute(_one(RECEIVED, received.id).values(was))

    def earlier(self, received: Received) -> list[Earlier]:
        """What was made of an image by earlier answers, the latest last."""
        c = DELIVERIES.c
        columns = (c.digest, c.destination, c.kind, c.sop_instance_uid)
        query = select(*columns).where(c.received_id == received.id).order_by(c.id)
        with self.reading() as connection:
            return [_value(Earlier, row) for row in connection.execute(query)]

    # What is to be delivered

    def claim_deliveries(self, destination: str, most: int) -> list[Delivery]:
        """Claim deliveries to a destination that are due: of the most urgent images, then of the
        most suspicious, then the oldest."""
        c, of = DELIVERIES.c, RECEIVED.c
        mine = (c.destination == destination) & c.state.in_(PENDING)
        query = select(DELIVERIES).join(RECEIVED).where(mine, self._due(DELIVERIES))
        query = query.order_by(of.priority, of.suspicion.desc().nulls_last(), c.id).limit(most)
        query = query.with_for_update(skip_locked=True, of=DELIVERIES)
        with self.transaction() as connection:
            rows = connection.execute(query).all()
            self._claim(connection, DELIVERIES, [row.id for row in rows], destination)
            return [_value(Delivery, row, attempts=row.attempts + 1) for row in rows]

    def sent(self, *deliveries: Delivery) -> None:
        """Note that a destination has some objects."""
        ended = {"state": "sent", "sent_at": self.clock(), "claimed_by": None, "reason": ""}
        with self.transaction() as connection:
            mine = DELIVERIES.c.id.in_([each.id for each in deliveries])
            connection.execute(update(DELIVERIES).where(mine).values(ended))

    def postpone_delivery(self, delivery: Delivery, pause: float, reason: str) -> None:
        """Give a claimed delivery back, for another attempt after some seconds."""
        self._unclaim(DELIVERIES, delivery.id, "waiting", pause, reason)

    def bury(self, delivery: Delivery, reason: str) -> None:
        """Give a delivery up until a person has it tried again."""
        ended = {"state": "dead", "claimed_by": None, "reason": reason[:LONGEST_REASON]}
        with self.transaction() as connection:
            connection.execute(_one(DELIVERIES, delivery.id).values(ended))

    # What a person or a start does

    def release_received(self, owner: str | None = None) -> None:
        """Free claims on what was received, and count each as an interruption instead of an
        attempt.

        Args:
            owner: whose claims; None for all, when no one works.
        """
        c = RECEIVED.c
        changed = {"attempts": c.attempts - 1, "interrupted": c.interrupted + 1}
        self._release(RECEIVED, _claims(RECEIVED, owner), changed)

    def release_deliveries(self, destination: str | None = None) -> None:
        """Free every claim on deliveries to a destination; only its one sender may ask.

        Args:
            destination: None for all, when none is being sent.
        """
        changed = {"attempts": DELIVERIES.c.attempts - 1}
        self._release(DELIVERIES, _claims(DELIVERIES, destination), changed)

    def _release(self, table: Table, mine: Any, changed: dict[str, Any]) -> None:
        with self.transaction() as connection:
            connection.execute(update(table).where(mine).values(changed | {"claimed_by": None}))

    def retry(self) -> int:
        """Have every dead delivery and failed image tried anew; returns how many."""
        anew = {"attempts": 0, "next_at": self.clock(), "reason": ""}
        with self.transaction() as connection:
            dead = update(DELIVERIES).where(
                DELIVERIES.c.state == "dead", DELIVERIES.c.file.is_not(None)
            )
            failed = update(RECEIVED).where(
                RECEIVED.c.state == "failed", RECEIVED.c.file.is_not(None)
            )
            again = anew | {"state": "received", "interrupted": 0}
            counts = (
                connection.execute(dead.values(anew | {"state": "waiting"})).rowcount,
                connection.execute(failed.values(again)).rowcount,
            )
        return sum(counts)

    def replay(self, since: datetime) -> int:
        """Have images be answered again that were received since then and are still on disk.

        A model that answered one before changes nothing by it; another one's answer is delivered
        beside the earlier one. Returns how many are answered again.
        """
        c = RECEIVED.c
        ended = and_(c.state != "received", c.file.is_not(None), c.received_at >= since)
        anew = {"state": "received", "attempts": 0, "next_at": self.clock(), "reason": ""}
        with self.transaction() as connection:
            return connection.execute(update(RECEIVED).where(ended).values(anew)).rowcount

    def count(self, what: str, peer: str = "") -> None:
        """Count a refusal or a repeat, by reason and peer."""
        c, now = COUNTS.c, self.clock()
        with self.transaction() as connection:
            row = {"what": what, "peer": peer, "number": 1, "last_at": now}
            if not _insert_new(connection, COUNTS, row):
                mine = update(COUNTS).where(c.what == what, c.peer == peer)
                connection.execute(mine.values(number=c.number + 1, last_at=now))

    def _due(self, table: Table) -> Any:
        now, c = self.clock(), table.c
        return and_(c.claimed_by.is_(None), or_(c.next_at <= now, c.next_at > now + self._longest))

    def _claim(self, connection: Connection, table: Table, ids: list[int], owner: str) -> None:
        tried = {"claimed_by": owner, "attempts": table.c.attempts + 1}
        connection.execute(update(table).where(table.c.id.in_(ids)).values(tried))

    def _unclaim(self, table: Table, number: int, state: str, pause: float, reason: str) -> None:
        when = self.clock() + min(timedelta(seconds=pause), self._longest)
        given = {"state": state, "claimed_by": None, "next_at": when}
        with self.transaction() as connection:
            connection.execute(_one(table, number).values(reason=reason[:LONGEST_REASON], **given))


def _claims(table: Table, owner: str | None) -> Any:
    return table.c.claimed_by.is_not(None) if owner is None else table.c.claimed_by == owner


def _one(table: Table, number: int) -> Any:
    return update(table).where(table.c.id == number)


def _insert_new(connection: Connection, table: Table, row: dict[str, Any]) -> bool:
    """Insert a row unless a unique constraint says that it is there."""
    statement = INSERT[connection.dialect.name](table).values(row).on_conflict_do_nothing()
    return connection.execute(statement.returning(*table.primary_key)).first() is not None


def _value(kind: type[Any], row: Any, **changed: Any) -> Any:
    """A row as one of the values above."""
    fields = {name: getattr(row, name) for name in kind.__dataclass_fields__}
    return kind(**fields | changed)
