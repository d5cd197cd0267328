"""The book of facts that arrived, in the queue's database, under keyed hashes of their ids."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, Connection, and_, delete, func, or_, select, true, update

from app.pacs.context.facts import Fact
from app.pacs.queue import Queue, Received
from app.pacs.queue.store import INSERT
from app.pacs.queue.tables import AWAITING, FACTS, RECEIVED
from cxr_mm.prediction_log.database import find_secret, keyed_hash


@dataclass(frozen=True)
class Owner:
    """Whose facts are looked for.

    Args:
        patient_id, accession: of the study; one may be empty.
    """

    patient_id: str
    accession: str


class Book:
    """Keeps facts and knows which images wait for them.

    Args:
        queue: in whose database they are.
        secret: of the hashes of ids.
    """

    def __init__(self, queue: Queue, secret: bytes) -> None:
        self._queue, self._secret = queue, secret

    def add(self, facts: Iterable[Fact]) -> int:
        """Add facts, and have images that wait for them be worked on now.

        Returns:
            How many are new.

        Raises:
            LogError: the database cannot be written.
        """
        new: list[Fact] = []
        with self._queue.transaction() as connection:
            insert = INSERT[connection.dialect.name](FACTS)
            for fact in facts:
                statement = insert.values(self._row(fact)).on_conflict_do_nothing()
                if connection.execute(statement.returning(FACTS.c.id)).first() is not None:
                    new.append(fact)
            a = AWAITING.c
            for fact in new:
                mine = or_(
                    and_(a.patient_key != "", a.patient_key == self._key(fact.patient_id)),
                    and_(a.accession_key != "", a.accession_key == self._key(fact.accession)),
                )
                self._wake(connection, mine)
        return len(new)

    def wake(self, received_id: int | None = None) -> None:
        """Have images that may be answered again be looked at now; all without an id.

        Raises:
            LogError: the database cannot be written.
        """
        one = AWAITING.c.received_id == received_id
        with self._queue.transaction() as connection:
            self._wake(connection, true() if received_id is None else one)

    def _wake(self, connection: Connection, mine: ColumnElement[bool]) -> None:
        """Have images that wait, or were answered, be worked on; one that is being answered is
        looked at again by its worker."""
        a, c, now = AWAITING.c, RECEIVED.c, self._queue.clock()
        waiting = select(a.received_id).where(mine, a.until > now)
        idle = and_(c.state == "received", c.claimed_by.is_(None), c.next_at > now)
        again = update(RECEIVED).where(
            c.id.in_(waiting), c.file.is_not(None), or_(c.state == "answered", idle)
        )
        connection.execute(again.values(state="received", next_at=now, attempts=0))

    def last(self, owner: Owner) -> int:
        """Number of the last fact of an owner; 0 without any.

        Raises:
            LogError: the database cannot be read.
        """
        with self._queue.reading() as connection:
            return connection.scalar(select(func.max(FACTS.c.id)).where(self._of(owner))) or 0

    def about(self, owner: Owner) -> list[Fact]:
        """Facts of a patient, or of an accession number, in the order of their arrival.

        The ids that it gives are the owner's; a fact of another patient is none of them, whatever
        its accession number.

        Raises:
            LogError: the database cannot be read.
        """
        query = select(FACTS).where(self._of(owner)).order_by(FACTS.c.id)
        with self._queue.reading() as connection:
            rows = connection.execute(query).all()
        return [
            Fact(r.code, r.value, r.unit, r.at, owner.patient_id, owner.accession) for r in rows
        ]

    def await_more(self, received: Received, owner: Owner, until: datetime) -> None:
        """Note that an image is to be worked on when facts of its owner arrive until then.

        Raises:
            LogError: the database cannot be written.
        """
        row = {
            "received_id": received.id,
            "patient_key": self._key(owner.patient_id),
            "accession_key": self._key(owner.accession),
            "until": until,
        }
        with self._queue.transaction() as connection:
            insert = INSERT[connection.dialect.name](AWAITING).values(row)
            changed = {name: value for name, value in row.items() if name != "received_id"}
            connection.execute(
                insert.on_conflict_do_update(index_elements=["received_id"], set_=changed)
            )

    def forget(self, keep_hours: float) -> None:
        """Delete facts that are old, and keys of images that wait no longer.

        Raises:
            LogError: the database cannot be written.
        """
        now = self._queue.clock()
        with self._queue.transaction() as connection:
            old = FACTS.c.received_at < now - timedelta(hours=keep_hours)
            connection.execute(delete(FACTS).where(old))
            connection.execute(delete(AWAITING).where(AWAITING.c.until <= now))

    def _of(self, owner: Owner) -> ColumnElement[bool]:
        c = FACTS.c
        patient, accession = self._key(owner.patient_id), self._key(owner.accession)
        return or_(
            and_(c.patient_key != "", c.patient_key == patient),
            and_(c.patient_key == "", c.accession_key != "", c.accession_key == accession),
        )

    def _row(self, fact: Fact) -> dict[str, object]:
        whole = [fact.patient_id, fact.accession, fact.code, fact.value, fact.unit]
        text = json.dumps([*whole, fact.at.isoformat()])
        return {
            "key": hashlib.sha256(keyed_hash(self._secret, text).encode()).hexdigest(),
            "patient_key": self._key(fact.patient_id),
            "accession_key": self._key(fact.accession),
            "code": fact.code,
            "value": fact.value,
            "unit": fact.unit,
            "at": fact.at,
            "received_at": self._queue.clock(),
        }

    def _key(self, text: str) -> str:
        return keyed_hash(self._secret, text) if text else ""


def book_of(url: str, queue: Queue) -> Book:
    """The book in a queue's database.

    Args:
        url: of the queue; beside a file of SQLite is that of the secret of the hashes.

    Raises:
        LogError: another database, and no variable with the secret.
    """
    return Book(queue, find_secret(url))
