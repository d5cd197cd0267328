"""The sender: C-STORE of what waits for a destination, again until it has it or it is given up."""

import logging
import ssl
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, _config, evt
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification

from app.pacs.delivery.commitment import Commitment
from app.pacs.delivery.fragments import read_soon, unburden
from app.pacs.guard import close_for_good
from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.queue import Delivery, Queue
from app.pacs.queue.watched import note_peer
from app.pacs.settings import NodeSettings, Peer, calling_context
from app.pacs.stages import UNTIMED, Stages
from app.pacs.storage import Storage
from cxr_mm.core.errors import LogError

_log = logging.getLogger(__name__)
AT_ONCE = 50
"""Objects sent by one association."""
NOTED_TOGETHER = 6
"""Objects after which is noted what the destination has: a kill sends so many again at most."""
LOOK_SECONDS = 1.0
"""Between two looks at deliveries that are due."""
WARNINGS = range(0xB000, 0xC000)
"""Status of an object that was stored with a remark (PS3.7 C)."""


class Unreachable(Exception):  # noqa: N818  its name is what is the case
    """A peer with which no association can be made, and why."""


class Sender:
    """Sends to one destination.

    Args:
        settings: of the node.
        peer: the destination.
        storage: where the objects are.
        queue: whose deliveries it works on.
        stages: times each object.

    Raises:
        ParamsError: a certificate cannot be used.
    """

    def __init__(
        self,
        settings: NodeSettings,
        peer: Peer,
        storage: Storage,
        queue: Queue,
        stages: Stages = UNTIMED,
    ) -> None:
        self._settings, self._peer = settings, peer
        self._storage, self._queue, self._stages = storage, queue, stages
        self._commitment = Commitment(queue, settings.limits, peer.name)
        self._noted: str | None = None
        self._tls = calling_context(settings.tls) if settings.tls and peer.tls else None
        self._prepare()

    def _prepare(self) -> None:
        """Make what a kind of destination needs besides."""

    def run(self, stop: threading.Event, answered: threading.Event) -> None:
        """Send what is due until told to stop; a database that is away is tried again."""
        has_claims = False
        while not stop.is_set():
            try:
                if has_claims:  # deliveries that could not be ended when the database was away
                    self._queue.release_deliveries(self._peer.name)
                has_claims = False
                if self.step():
                    continue
            except LogError as error:
                _log.error("The queue cannot be used: %s", error)
                has_claims = True
                stop.wait(self._settings.limits.shortest_pause)
            answered.wait(LOOK_SECONDS)
            answered.clear()

    def step(self) -> bool:
        """Send what is due, by one association; False where nothing is.

        Raises:
            LogError: the queue cannot be used.
        """
        due = self._queue.claim_deliveries(self._peer.name, AT_ONCE)
        if due:
            self._deliver(due)
        return bool(due)

    def _deliver(self, due: Sequence[Delivery]) -> None:
        try:
            association = associate(self._settings, self._peer, self._tls, self._reported)
        except Unreachable as error:
            self._note(str(error))
            self._failed(due, str(error))
            return
        self._note()
        try:
            stored = self._store(association, due)
            if stored and self._peer.commitment:
                self._ask_for_commitment(association, stored)
        finally:
            association.release()

    def _store(self, association: Any, due: Sequence[Delivery]) -> list[Delivery]:
        """Send objects, and note those that the destination has; which these are."""
        stored: list[Delivery] = []
        for start in range(0, len(due), NOTED_TOGETHER):
            group = due[start : start + NOTED_TOGETHER]
            taken = [delivery for delivery in group if self._send(association, delivery)]
            if taken and not self._peer.commitment:
                self._queue.sent(*taken)
            stored += taken
        return stored

    def _ask_for_commitment(self, association: Any, stored: Sequence[Delivery]) -> None:
        if reason := self._commitment.ask(association, stored):
            self._failed(stored, reason)

    def _reported(self, event: Any) -> tuple[int, None]:
        """A report that comes by the association that asked for it."""
        return self._commitment.answer(event), None

    def _send(self, association: Any, delivery: Delivery) -> bool:
        """Send one object; whether the destination has it."""
        path = self._storage.path(delivery.file)
        if delivery.attempts > self._settings.limits.send_attempts:
            self._failed([delivery], "no report of storage commitment")
            return False
        if not association.is_established:
            self._failed([delivery], "the association ended")
            return False
        try:
            with self._stages.timed("send"):
                status = association.send_c_store(path).get("Status")
        except FileNotFoundError:
            self._queue.bury(delivery, "its file is gone")
        except ValueError:
            self._failed([delivery], "the destination does not take this kind of object")
        except RuntimeError:
            self._failed([delivery], "the association ended")
        else:
            if status == 0 or status in WARNINGS:
                return True
            if status is None:
                self._failed([delivery], "no answer")
            else:
                self._failed([delivery], f"the destination answered {status:#06x}")
        return False

    def _note(self, trouble: str = "") -> None:
        """Note that the destination can be reached, or why not, where that is new."""
        if self._noted != trouble:
            note_peer(self._queue, self._peer.name, trouble)
            self._noted = trouble

    def _failed(self, deliveries: Sequence[Delivery], reason: str) -> None:
        limits = self._settings.limits
        for delivery in deliveries:
            if delivery.attempts >= limits.send_attempts:
                self._queue.bury(delivery, reason)
                _log.error("Given up: %s to %s: %s", delivery.kind, self._peer.name, reason)
            else:
                self._queue.postpone_delivery(delivery, limits.pause(delivery.attempts), reason)


def associate(
    settings: NodeSettings,
    peer: Peer,
    tls: ssl.SSLContext | None,
    reported: Callable[[Any], tuple[int, None]] | None = None,
) -> Any:
    """Open an association with a peer, for an echo, every kind of object and storage commitment.

    Args:
        reported: is called with a report of storage commitment.

    Raises:
        Unreachable: none can be made.
    """
    _config.LOG_HANDLER_LEVEL = "none"
    _config.STORE_SEND_CHUNKED_DATASET = True  # the file as it is, not decoded first
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)  # it quotes what it sends
    entity = AE(settings.ae_title)
    idle = settings.limits.idle_seconds
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = idle
    entity.connection_timeout = idle
    entity.add_requested_context(Verification)
    for each in SOP_CLASSES.values():
        entity.add_requested_context(each, ExplicitVRLittleEndian)
    if peer.commitment:
        entity.add_requested_context(StorageCommitmentPushModel)
    association = entity.associate(
        peer.host,
        peer.port,
        ae_title=peer.ae_title,
        tls_args=None if tls is None else (tls, peer.host),
        evt_handlers=[(evt.EVT_N_EVENT_REPORT, reported)] if reported else [],
    )
    close_for_good(association)
    if association.is_established:
        unburden(association, idle)
        read_soon(association)
        return association
    association.dul.socket.close()  # pynetdicom may end its loop before it does
    if association.is_rejected:
        raise Unreachable("the destination rejects the association")
    raise Unreachable("the destination cannot be reached")


@dataclass(frozen=True)
class EchoResult:
    """Whether a peer answers an echo and takes what rules send to it, and in words."""

    ok: bool
    text: str


def ask_for_echo(settings: NodeSettings, peer: Peer) -> EchoResult:
    """Ask a peer for an echo, and whether it takes the objects that rules send to it.

    Raises:
        ParamsError: a certificate cannot be used.
    """
    try:
        association = associate(
            settings, peer, calling_context(settings.tls) if settings.tls and peer.tls else None
        )
    except Unreachable as error:
        return EchoResult(False, str(error))
    taken = {context.abstract_syntax for context in association.accepted_contexts}
    echo = Verification in taken and association.send_c_echo().get("Status") == 0
    association.release()
    missing: list[str] = [k for k in settings.kinds_for(peer.name) if SOP_CLASSES[k] not in taken]
    if peer.commitment and StorageCommitmentPushModel not in taken:
        missing.append("storage commitment")
    words = "echo answered" if echo else "no echo"
    words += f", does not take {', '.join(missing)}" if missing else ", takes what it is sent"
    return EchoResult(echo and not missing, words)
