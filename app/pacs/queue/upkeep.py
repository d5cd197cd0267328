"""Upkeep of queue and storage: what is in them, and what is no longer needed of them."""

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update

from app.pacs.queue.store import PENDING, Queue
from app.pacs.queue.tables import AWAITING, COUNTS, DELIVERED, DELIVERIES, RECEIVED
from app.pacs.settings import QueueRetention


def status(queue: Queue) -> dict[str, Any]:
    """Rows by state, deliveries by destination and state, age of the oldest that waits, counts.

    Raises:
        LogError: the queue cannot be read.
    """
    c, d = RECEIVED.c, DELIVERIES.c
    with queue.reading() as connection:
        received = connection.execute(
            select(c.state, func.count().label("number")).group_by(c.state).order_by(c.state)
        ).all()
        sent = select(d.destination, d.state, func.count()).group_by(d.destination, d.state)
        deliveries = connection.execute(sent).all()
        oldest = connection.scalar(select(func.min(c.received_at)).where(c.state == "received"))
        counts = connection.execute(select(COUNTS).order_by(COUNTS.c.what, COUNTS.c.peer)).all()
    waits = None if oldest is None else (queue.clock() - oldest).total_seconds()
    destinations: dict[str, dict[str, int]] = {}
    for name, state, number in deliveries:
        destinations.setdefault(name, {})[state] = number
    return {
        "received": {row.state: row.number for row in received},
        "oldest_seconds": waits,
        "destinations": dict(sorted(destinations.items())),
        "counts": [{"what": r.what, "peer": r.peer, "number": r.number} for r in counts],
    }


def rows(queue: Queue, most: int) -> list[dict[str, Any]]:
    """The newest received rows, each with its deliveries by state; no UID is among them.

    Raises:
        LogError: the queue cannot be read.
    """
    c = RECEIVED.c
    columns = (c.id, c.received_at, c.peer, c.state, c.attempts, c.reason)
    with queue.reading() as connection:
        found = connection.execute(select(*columns).order_by(c.id.desc()).limit(most)).all()
    deliveries = deliveries_of(queue, [row.id for row in found])
    return [{**row._mapping, "deliveries": deliveries.get(row.id, {})} for row in found]


def deliveries_of(queue: Queue, ids: Sequence[int]) -> dict[int, dict[str, int]]:
    """Received row → its deliveries by state.

    Raises:
        LogError: the queue cannot be read.
    """
    d, found = DELIVERIES.c, dict[int, Counter[str]]()
    query = select(d.received_id, d.state).where(d.received_id.in_(ids))
    with queue.reading() as connection:
        for number, state in connection.execute(query):
            found.setdefault(number, Counter())[state] += 1
    return {number: dict(sorted(states.items())) for number, states in found.items()}


def clean(queue: Queue, storage: Path, retention: QueueRetention) -> None:
    """Delete files and forget identifiers that are no longer needed.

    Raises:
        LogError: the queue cannot be used.
    """
    now = queue.clock()
    given_up = now - timedelta(days=retention.longest_days)
    for hours, columns in (
        (retention.file_hours, ("file",)),
        (24 * retention.identifier_days, ("sop_instance_uid", "file")),
    ):
        for file in _forget(queue, now - timedelta(hours=hours), given_up, columns):
            (storage / file).unlink(missing_ok=True)


def _forget(queue: Queue, until: datetime, given_up: datetime, columns: Sequence[str]) -> list[str]:
    """Empty columns of rows that ended by `until`, or are older than `given_up`.

    Returns:
        The files that they named, below the storage.
    """
    c, d = RECEIVED.c, DELIVERIES.c
    pending = select(d.id).where(d.received_id == c.id, d.state.not_in(DELIVERED)).exists()
    late = select(d.id).where(d.received_id == c.id, d.sent_at > until).exists()
    a = AWAITING.c
    awaiting = select(a.received_id).where(a.received_id == c.id, a.until > queue.clock()).exists()
    finished = c.state.in_(("answered", "not_analysed")) & (c.answered_at <= until)
    over = (finished & ~pending & ~late & ~awaiting) | (c.received_at <= given_up)
    with queue.transaction() as connection:
        ids = list(connection.scalars(select(c.id).where(c[columns[0]].is_not(None), over)))
        files: list[str] = []
        for table, column, working, ended in (
            (RECEIVED, c.id, ("received",), "failed"),
            (DELIVERIES, d.received_id, PENDING, "dead"),
        ):
            mine = column.in_(ids)
            files += connection.scalars(select(table.c.file).where(mine, table.c.file.is_not(None)))
            overdue = update(table).where(mine, table.c.state.in_(working))
            connection.execute(overdue.values(state=ended, reason="was kept for the longest time"))
            connection.execute(update(table).where(mine).values(dict.fromkeys(columns)))
    return files


def remove_unnamed(queue: Queue, storage: Path, folders: Iterable[str]) -> None:
    """Remove files in folders of the storage that no row names: a start may, when nothing is being
    written.

    Raises:
        LogError: the queue cannot be read.
    """
    with queue.reading() as connection:
        named: set[str] = set()
        for table in (RECEIVED, DELIVERIES):
            named.update(connection.scalars(select(table.c.file).where(table.c.file.is_not(None))))
    for folder in folders:
        for path in (storage / folder).glob("*"):
            if f"{folder}/{path.name}" not in named:
                path.unlink()
