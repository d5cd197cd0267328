"""The node: one process that receives and sends, and others that answer.

It may be ended at any time: what a peer was told is stored is on disk and in the queue, and the
next start goes on from there.
"""

import gc
import logging
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack, closing
from typing import Any

from app.pacs.context.taking import Taking
from app.pacs.delivery.fhir import FhirSender
from app.pacs.dicomweb.poll import Poller
from app.pacs.dicomweb.stow_out import StowSender
from app.pacs.header import HeaderReader
from app.pacs.queue import Queue
from app.pacs.queue.lock import Check, QueueTakenError, only_node
from app.pacs.queue.upkeep import clean, remove_unnamed
from app.pacs.receiver import Receiver
from app.pacs.sender import Sender
from app.pacs.settings import NodeSettings, Peer
from app.pacs.stages import Stages
from app.pacs.storage import FOLDERS, Storage
from app.pacs.watch.alerts import Watch
from app.pacs.watch.metrics import NodeMetrics
from app.pacs.workers import STOP_SECONDS, Workers
from cxr_mm.core.errors import CxrError, LogError

_log = logging.getLogger(__name__)
UPKEEP_SECONDS = 5.0


def run_node(
    settings: NodeSettings, stop: threading.Event, ready: Callable[[int], None] = lambda _: None
) -> None:
    """Receive, answer and send until told to stop.

    Args:
        settings: of the node.
        stop: ends it.
        ready: is called with the port once the node listens.

    Raises:
        StorageError: the storage cannot be used, or another node has it.
        LogError: the queue or the prediction log cannot be opened, or another node has the queue.
        BundleError: a bundle is damaged, foreign or incomplete.
        ParamsError: the port cannot be had, or a certificate cannot be used.
        RuntimeError: a thread of the node ended by an error of the program.
    """
    storage = Storage(settings.storage)
    threads = _Threads(stop)
    with ExitStack() as stack:
        stack.enter_context(storage.locked())
        check = stack.enter_context(only_node(settings.queue_url))
        queue = stack.enter_context(closing(_opened_queue(settings, storage)))
        stack.callback(threads.join)
        stack.callback(stop.set)
        headers = stack.enter_context(HeaderReader())
        arrived, answered = threading.Event(), [threading.Event() for _ in settings.peers]
        metrics = NodeMetrics(queue)
        stack.enter_context(metrics.served(settings.metrics))
        stages = Stages(metrics.observe)
        workers = Workers(settings, queue, lambda: _set_all(answered), metrics.observe)
        for name in workers.names:
            threads.start(name, workers.keep, stop, name)
        workers.await_ready(stop)
        threads.start("messenger", workers.wake, stop, arrived)
        for peer, wake in zip(settings.peers, answered, strict=True):
            sender = _sender_of(peer)(settings, peer, storage, queue, stages)
            threads.start(f"sender {peer.name}", sender.run, stop, wake)
            if peer.web and peer.web.poll:
                poller = Poller(settings, peer, storage, queue, headers, arrived.set)
                threads.start(f"poller {peer.name}", poller.run, stop)
        if settings.context:
            taking = stack.enter_context(Taking(settings, queue, arrived.set))
            threads.start("context", taking.run, stop)
        threads.check()
        threads.start("watch", Watch(settings, storage, queue).run, stop)
        receiver = stack.enter_context(Receiver(settings, storage, queue, arrived.set, stages))
        gc.freeze()  # pynetdicom collects at every turn what does not change any more
        ready(receiver.port)
        _keep_up(settings, storage, queue, check, stop)
    threads.check()


def _sender_of(peer: Peer) -> type[Sender]:
    if peer.fhir:
        return FhirSender
    return StowSender if peer.sent_by_web else Sender


def _set_all(events: Iterable[threading.Event]) -> None:
    for event in events:
        event.set()


def _opened_queue(settings: NodeSettings, storage: Storage) -> Queue:
    """The queue as an ended node has left it: what it held is free again."""
    queue = Queue(settings.queue_url, settings.limits.longest_pause)
    try:
        queue.release_received()
        queue.release_deliveries()
        with storage.alone():
            remove_unnamed(queue, storage.root, FOLDERS)
    except LogError:
        queue.close()
        raise
    return queue


def _keep_up(
    settings: NodeSettings, storage: Storage, queue: Queue, check: Check, stop: threading.Event
) -> None:
    """Delete what is no longer needed, until told to stop.

    Raises:
        QueueTakenError: another node took the queue while the database was away.
    """
    while not stop.wait(UPKEEP_SECONDS):
        try:
            check()
            clean(queue, storage.root, settings.retention)
        except QueueTakenError:
            raise
        except (LogError, OSError) as error:
            _log.error(
                "Upkeep failed: %s", error if isinstance(error, CxrError) else error.strerror
            )


class _Threads:
    """Threads that end the node, and are named, if one of them fails."""

    def __init__(self, stop: threading.Event) -> None:
        self._stop = stop
        self._threads: list[threading.Thread] = []
        self._failed: list[tuple[str, Exception]] = []

    def start(self, name: str, target: Callable[..., None], *args: Any) -> None:
        def run() -> None:
            try:
                target(*args)
            except Exception as error:  # noqa: BLE001  told by `check`
                self._failed.append((name, error))
                self._stop.set()

        thread = threading.Thread(target=run, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def join(self) -> None:
        for thread in self._threads:
            thread.join(2 * STOP_SECONDS)

    def check(self) -> None:
        """Raise what ended a thread.

        Raises:
            CxrError: what a user can fix.
            RuntimeError: a thread ended by an error of the program.
        """
        for name, error in self._failed:
            if isinstance(error, CxrError):
                raise error
            raise RuntimeError(f"the {name} of the node has ended") from error
