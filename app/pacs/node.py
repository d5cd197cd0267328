"""The node: one process of receiver, worker and a sender for each destination.

It may be ended at any time: what a peer was told is stored is on disk and in the queue, and the
next start goes on from there.
"""

import hashlib
import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from app.model_watcher import load_models
from app.pacs.answering import Answering
from app.pacs.dicomweb.poll import Poller
from app.pacs.dicomweb.stow_out import StowSender
from app.pacs.header import HeaderReader
from app.pacs.queue import Queue
from app.pacs.receiver import Receiver
from app.pacs.sender import Sender
from app.pacs.settings import NodeSettings
from app.pacs.storage import Storage
from app.pacs.upkeep import clean, remove_unnamed
from app.pacs.worker import Worker
from app.service import InferenceService
from app.upload_cache import UploadCache
from cxr_mm.core.errors import CxrError, LogError
from cxr_mm.imaging.decoder import Decoder, Limits
from cxr_mm.prediction_log import open_spooled_log

_log = logging.getLogger(__name__)
UPKEEP_SECONDS = 5.0
STOP_SECONDS = 5.0
"""For which the end waits for the image at hand; what was not ended is done again."""
DECODERS = 1


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
        LogError: the queue or the prediction log cannot be opened.
        BundleError: a bundle is damaged, foreign or incomplete.
        ParamsError: the port cannot be had, or a certificate cannot be used.
        RuntimeError: a thread of the node ended by an error of the program.
    """
    storage = Storage(settings.storage)
    with ExitStack() as stack:
        stack.enter_context(storage.locked())
        queue = stack.enter_context(closing(_opened_queue(settings, storage)))
        decoder = stack.enter_context(Decoder(_decoding(settings)))
        headers = stack.enter_context(HeaderReader())
        cache = stack.enter_context(closing(UploadCache(decoder.read)))
        answering = Answering(services(settings, cache), configuration(settings))
        worker = Worker(settings, storage, queue, headers, answering)
        threads = _Threads(stop)
        stack.callback(threads.join)
        stack.callback(stop.set)
        arrived, answered = threading.Event(), [threading.Event() for _ in settings.peers]
        threads.start("worker", worker.run, stop, arrived, answered)
        for peer, wake in zip(settings.peers, answered, strict=True):
            kind = StowSender if peer.sent_by_web else Sender
            sender = kind(settings, peer, storage, queue)
            threads.start(f"sender {peer.name}", sender.run, stop, wake)
            if peer.web and peer.web.poll:
                poller = Poller(settings, peer, storage, queue, headers, arrived.set)
                threads.start(f"poller {peer.name}", poller.run, stop)
        receiver = stack.enter_context(Receiver(settings, storage, queue, arrived.set))
        ready(receiver.port)
        _keep_up(settings, storage, queue, stop)
    threads.check()


def services(settings: NodeSettings, cache: UploadCache) -> dict[Path, InferenceService]:
    """Service of each bundle that a rule names, all with one prediction log.

    Raises:
        BundleError: a bundle is damaged, foreign or incomplete.
        LogError: the log cannot be opened.
    """
    models = load_models(settings.bundles)
    log = open_spooled_log(settings.log) if settings.log else None
    found = [InferenceService(model, log, cache, "pacs") for model in models]
    return dict(zip(settings.bundles, found, strict=True))


def configuration(settings: NodeSettings) -> str:
    """Digest of the rules and the title of the node (sha256, hexadecimal)."""
    text = settings.model_dump_json(include={"ae_title", "rules"})
    return hashlib.sha256(text.encode()).hexdigest()


def _opened_queue(settings: NodeSettings, storage: Storage) -> Queue:
    """The queue as an ended node has left it: what it held is free again."""
    queue = Queue(settings.queue_url, settings.limits.longest_pause)
    try:
        queue.release_received()
        queue.release_deliveries()
        with storage.alone():
            remove_unnamed(queue, storage.root)
    except LogError:
        queue.close()
        raise
    return queue


def _decoding(settings: NodeSettings) -> Limits:
    return Limits(file=settings.limits.object_bytes, workers=DECODERS)


def _keep_up(settings: NodeSettings, storage: Storage, queue: Queue, stop: threading.Event) -> None:
    """Delete what is no longer needed, until told to stop."""
    while not stop.wait(UPKEEP_SECONDS):
        try:
            clean(queue, storage.root, settings.retention)
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
            thread.join(STOP_SECONDS)

    def check(self) -> None:
        """Raise what ended a thread.

        Raises:
            RuntimeError: a thread ended by an error of the program.
        """
        for name, error in self._failed:
            raise RuntimeError(f"the {name} of the node has ended") from error
