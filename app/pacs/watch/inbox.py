"""The queue of a node as the page's Inbox shows it; no name of a patient is in the queue."""

from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from sqlalchemy import func, or_, select

from app.inbox import MOST, InboxPeer, InboxRow, InboxView, Wanted
from app.pacs.queue import Queue
from app.pacs.queue.tables import RECEIVED
from app.pacs.queue.upkeep import deliveries_of, status
from app.pacs.queue.watched import peer_states
from app.pacs.settings import load_node_settings
from cxr_mm.core.errors import InputError, LogError

LOOKED_AT = 1000
"""Rows among which a positive finding is looked for, the most suspicious ones."""


class QueueInbox:
    """Reads the queue of a node, which may be running or not.

    Args:
        file: of the node.

    Raises:
        ParamsError: the node's file is invalid.
        LogError: the queue cannot be opened.
    """

    def __init__(self, file: Path) -> None:
        self._settings = load_node_settings(file)
        self._queue = Queue(self._settings.queue_url)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._queue.close()

    def look(self, task: str, wanted: Wanted) -> InboxView:
        """See `app.inbox.Inbox`."""
        found = self._rows(task, wanted)
        now, state = self._queue.clock(), status(self._queue)
        return InboxView(
            rows=self._with_deliveries(found[:MOST]),
            number=len(found),
            peers=self._peers(),
            waiting=state["received"].get("received", 0),
            oldest_seconds=state["oldest_seconds"],
            last_hour=self._answered_since(now - timedelta(hours=1)),
            now=now,
        )

    def image(self, number: int) -> tuple[str, Path]:
        """See `app.inbox.Inbox`."""
        c = RECEIVED.c
        query = select(c.sop_instance_uid, c.file).where(c.id == number)
        with self._queue.reading() as connection:
            row = connection.execute(query).one_or_none()
        path = self._settings.storage / row.file if row is not None and row.file else None
        if row is None or path is None or not path.is_file():
            raise InputError(
                "its image was deleted",
                field=f"image {number}",
                remedy="Fetch it from the archive, or have the node keep files for longer "
                "(retention.file_hours)",
            )
        return row.sop_instance_uid or "", path

    def has(self, study_id: str) -> bool:
        """See `app.inbox.Inbox`."""
        try:
            return self._queue.content_of(study_id) is not None
        except LogError:
            return False

    def _rows(self, task: str, wanted: Wanted) -> list[Any]:
        c, text = RECEIVED.c, wanted.text.strip()
        query = select(RECEIVED).where(c.task.in_((task, "")))
        if wanted.state:
            query = query.where(c.state == wanted.state)
        if text:
            columns = (c.peer, c.reason, c.sop_instance_uid)
            query = query.where(or_(*(each.icontains(text, autoescape=True) for each in columns)))
        query = query.order_by(c.suspicion.desc().nulls_last(), c.received_at.desc())
        with self._queue.reading() as connection:
            rows = connection.execute(query.limit(LOOKED_AT)).all()
        return [row for row in rows if not wanted.finding or _is_positive(row, wanted.finding)]

    def _with_deliveries(self, rows: list[Any]) -> tuple[InboxRow, ...]:
        deliveries = deliveries_of(self._queue, [row.id for row in rows])
        return tuple(
            InboxRow(
                number=row.id,
                uid=row.sop_instance_uid or "",
                peer=row.peer,
                received_at=row.received_at,
                state=row.state,
                reason=row.reason,
                suspicion=row.suspicion,
                findings=tuple(row.findings),
                deliveries=deliveries.get(row.id, {}),
                has_image=row.file is not None,
            )
            for row in rows
        )

    def _peers(self) -> tuple[InboxPeer, ...]:
        """Every destination of a rule, and what was noted of it."""
        noted = {peer.name: peer for peer in peer_states(self._queue)}
        names = sorted({d.peer for rule in self._settings.rules for d in rule.destinations})
        return tuple(
            InboxPeer(name, noted[name].trouble, noted[name].since)
            if name in noted
            else InboxPeer(name, "", None)
            for name in names
        )

    def _answered_since(self, moment: Any) -> int:
        c = RECEIVED.c
        query = select(func.count()).where(c.state != "received", c.answered_at >= moment)
        with self._queue.reading() as connection:
            return connection.scalar(query) or 0


def _is_positive(row: Any, finding: str) -> bool:
    return any(each["finding"] == finding and each["positive"] for each in row.findings)
