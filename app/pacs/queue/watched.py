"""What is watched beside the rows: which destinations are away, and what a person was told of."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import delete, insert, select, update

from app.pacs.queue.store import INSERT, Queue
from app.pacs.queue.tables import ALERTS, LONGEST_REASON, PEERS


@dataclass(frozen=True)
class PeerState:
    """Whether a destination could be reached last.

    Args:
        name: of the peer.
        trouble: why not; empty where it could.
        since: when that began.
    """

    name: str
    trouble: str
    since: datetime


def note_peer(queue: Queue, name: str, trouble: str = "") -> None:
    """Note whether a destination can be reached; `since` moves only where that changes.

    Raises:
        LogError: the queue cannot be written.
    """
    c, text = PEERS.c, trouble[:LONGEST_REASON]
    now = queue.clock()
    row = {"name": name, "trouble": text, "since": now}
    with queue.transaction() as connection:
        new = INSERT[connection.dialect.name](PEERS).values(row).on_conflict_do_nothing()
        connection.execute(new)
        changed = update(PEERS).where(c.name == name, (c.trouble == "") != (text == ""))
        connection.execute(changed.values(trouble=text, since=now))


def peer_states(queue: Queue) -> list[PeerState]:
    """Every destination that was called, by name.

    Raises:
        LogError: the queue cannot be read.
    """
    with queue.reading() as connection:
        rows = connection.execute(select(PEERS).order_by(PEERS.c.name)).all()
    return [PeerState(row.name, row.trouble, row.since) for row in rows]


@dataclass(frozen=True)
class Alert:
    """An alert that was raised.

    Args:
        notice_id: of its message.
        cause: what it is about; one alert for each.
        text: in words.
        since: when it was raised.
        over: whether the cause has gone.
        channels: that do not have the message yet.
    """

    notice_id: str
    cause: str
    text: str
    since: datetime
    over: bool
    channels: tuple[str, ...]


def alerts(queue: Queue) -> list[Alert]:
    """Every alert that is raised, or over and not yet told, the oldest first.

    Raises:
        LogError: the queue cannot be read.
    """
    with queue.reading() as connection:
        rows = connection.execute(select(ALERTS).order_by(ALERTS.c.since, ALERTS.c.cause)).all()
    return [Alert(**{**row._mapping, "channels": tuple(row.channels)}) for row in rows]


def put_alert(queue: Queue, alert: Alert) -> None:
    """Store an alert in place of the one of its cause; one that is over and told is forgotten.

    Raises:
        LogError: the queue cannot be written.
    """
    with queue.transaction() as connection:
        connection.execute(delete(ALERTS).where(ALERTS.c.cause == alert.cause))
        if alert.channels or not alert.over:
            row = vars(alert) | {"channels": list(alert.channels)}
            connection.execute(insert(ALERTS).values(row))
