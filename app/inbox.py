"""Inbox: what the page shows of a node's queue; the node gives it (`app.pacs.watch.inbox`)."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

MOST = 100
"""Rows that are shown; the choices lead to the others."""


@dataclass(frozen=True)
class Wanted:
    """Which rows of a queue.

    Args:
        state: `received`, `answered`, `not_analysed` or `failed`; empty for any.
        finding: that must be positive; empty for none.
        text: part of the peer's name, the reason or the UID.
    """

    state: str = ""
    finding: str = ""
    text: str = ""


@dataclass(frozen=True)
class InboxRow:
    """One image.

    Args:
        number: of the row.
        uid: of the SOP instance; empty once it is forgotten.
        peer: that sent it.
        received_at: when.
        state, reason: what became of it.
        suspicion: more is more suspicious; None without an answer.
        findings: `finding`, `title`, `probability`, `positive` and `certainty` of each.
        deliveries: state → how many.
        has_image: whether its file is still on disk.
    """

    number: int
    uid: str
    peer: str
    received_at: datetime
    state: str
    reason: str
    suspicion: float | None
    findings: tuple[dict[str, Any], ...]
    deliveries: dict[str, int]
    has_image: bool


@dataclass(frozen=True)
class InboxPeer:
    """A destination: why it cannot be reached, empty where it can, since when."""

    name: str
    trouble: str
    since: datetime | None


@dataclass(frozen=True)
class InboxView:
    """A queue as it is now.

    Args:
        rows: the most suspicious first, `MOST` at most.
        number: of rows that fit.
        peers: every destination.
        waiting: images without an answer yet.
        oldest_seconds: for which the oldest of them waits.
        last_hour: images that were answered in it.
        now: when this was.
    """

    rows: tuple[InboxRow, ...]
    number: int
    peers: tuple[InboxPeer, ...]
    waiting: int
    oldest_seconds: float | None
    last_hour: int
    now: datetime


class Inbox(Protocol):
    """The queue of a node."""

    def look(self, task: str, wanted: Wanted) -> InboxView:
        """Rows of a task, and those that no model has answered.

        Raises:
            LogError: the queue cannot be read.
        """

    def image(self, number: int) -> tuple[str, Path]:
        """Study id and file of a row.

        Raises:
            InputError: its file was deleted.
            LogError: the queue cannot be read.
        """

    def has(self, study_id: str) -> bool:
        """Whether a study came by the queue; False where it cannot be read."""
