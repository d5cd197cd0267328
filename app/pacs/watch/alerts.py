"""Alerts of the node: each cause is told once by every channel, and once more when it has gone.

What could not be told waits in the queue's database. A crash between message and note tells twice,
never not at all; the id of the message is the same.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial

from app.pacs.queue import Queue
from app.pacs.queue.upkeep import status
from app.pacs.queue.watched import Alert, alerts, peer_states, put_alert
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from cxr_mm.alerts.channels import post, send_mail
from cxr_mm.core.errors import CxrError, LogError
from cxr_mm.core.record import random_id
from cxr_mm.core.types import Frozen

_log = logging.getLogger(__name__)
LOOK_SECONDS = 10.0
MINUTE, GIB = 60, 1 << 30


class NodeNotice(Frozen):
    """Message of one alert; it names no patient."""

    notice_id: str
    """The same in every attempt, so that a receiver can drop repeats."""
    node: str
    """Its AE title."""
    cause: str
    over: bool
    text: str

    @property
    def subject(self) -> str:
        """Subject line."""
        return f"{'OVER' if self.over else 'ALERT'} {self.node}: {self.cause}"


Send = Callable[[NodeNotice], None]


class Watch:
    """Looks for what a person must know of a node, and tells it.

    Args:
        settings: of the node.
        storage: whose disk is looked at.
        queue: whose rows are.
        channels: by name; None for those of the settings.
    """

    def __init__(
        self,
        settings: NodeSettings,
        storage: Storage,
        queue: Queue,
        channels: Mapping[str, Send] | None = None,
    ) -> None:
        self._settings, self._storage, self._queue = settings, storage, queue
        self._channels = _channels(settings) if channels is None else channels

    def run(self, stop: threading.Event) -> None:
        """Look until told to stop."""
        while not stop.wait(LOOK_SECONDS):
            try:
                self.step()
            except (LogError, OSError) as error:
                _log.error("Alerts cannot be looked for: %s", error)

    def step(self) -> None:
        """Raise what is new, end what has gone, and tell both.

        Raises:
            LogError: the queue cannot be used.
            OSError: the disk cannot be looked at.
        """
        causes, known = self.causes(), {alert.cause: alert for alert in alerts(self._queue)}
        for cause, text in causes.items():
            if cause not in known or known[cause].over:
                _log.error("%s: %s", cause, text)
                self._put(cause, text, over=False)
        for cause, alert in known.items():
            if cause not in causes and not alert.over:
                _log.warning("%s: over", cause)
                self._put(cause, alert.text, over=True)
        for alert in alerts(self._queue):
            self._tell(alert)

    def causes(self) -> dict[str, str]:
        """What there is to tell now: cause → text.

        Raises:
            LogError: the queue cannot be read.
            OSError: the disk cannot be looked at.
        """
        limits, found, now = self._settings.alerts, {}, self._queue.clock()
        state, free = status(self._queue), self._storage.free
        for name, deliveries in state["destinations"].items():
            if dead := deliveries.get("dead"):
                found[f"dead deliveries to {name}"] = (
                    f"{dead} objects were given up: cxr-mm pacs retry tries them again"
                )
        for peer in peer_states(self._queue):
            minutes = (now - peer.since).total_seconds() / MINUTE
            if peer.trouble and minutes > limits.away_minutes:
                found[f"{peer.name} is away"] = (
                    f"{peer.trouble}, since {peer.since:%Y-%m-%d %H:%M} UTC"
                )
        waits = state["oldest_seconds"] or 0.0
        if waits > MINUTE * limits.waiting_minutes:
            found["images wait"] = f"the oldest has waited for {waits / MINUTE:.0f} minutes"
        if free < limits.free_bytes:
            found["disk nearly full"] = f"{free / GIB:.2f} GiB are left"
        return found

    def _put(self, cause: str, text: str, *, over: bool) -> None:
        channels = tuple(self._channels)
        alert = Alert(random_id(), cause, text, self._queue.clock(), over, channels)
        put_alert(self._queue, alert)

    def _tell(self, alert: Alert) -> None:
        left = []
        for name in alert.channels:
            notice = NodeNotice(
                notice_id=alert.notice_id,
                node=self._settings.ae_title,
                cause=alert.cause,
                over=alert.over,
                text=alert.text,
            )
            try:
                if name in self._channels:
                    self._channels[name](notice)
            except CxrError as error:
                _log.error("The alert could not be sent: %s", error)
                left.append(name)
        if left != list(alert.channels):
            put_alert(self._queue, replace(alert, channels=tuple(left)))


def _channels(settings: NodeSettings) -> dict[str, Send]:
    found: dict[str, Send] = {}
    if settings.alerts.webhook:
        found["webhook"] = partial(post, settings=settings.alerts.webhook)
    if settings.alerts.mail:
        found["mail"] = partial(send_mail, settings=settings.alerts.mail)
    return found
