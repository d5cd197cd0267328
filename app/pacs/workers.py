"""Processes that answer: started again when they end, so that an image that takes one with it
costs neither what is being received nor what is being sent.

Node and process speak over a pipe, whose end tells each that the other has gone.
"""

import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import torch

from app.model_watcher import load_models
from app.pacs.answering import Answering
from app.pacs.context.studies import opened
from app.pacs.header import HeaderReader
from app.pacs.queue import Queue
from app.pacs.settings import NodeSettings
from app.pacs.stages import Observe, Stages, unobserved
from app.pacs.storage import Storage
from app.pacs.worker import Worker
from app.service import InferenceService
from app.upload_cache import UploadCache
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import CxrError, LogError
from cxr_mm.imaging.decoder import READER_FOR_MODEL, Decoder, Limits
from cxr_mm.prediction_log import open_spooled_log

_log = logging.getLogger(__name__)
Word = Literal["arrived", "stop"]
"""What the node says to a process; a process says `ready`, `answered`, `stage` with its name and
seconds, or `error` with the error that ends it."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 5.0
"""For which the end waits for the image at hand; what was not ended is done again."""
GONE = 1
"""Exit status of a process whose node has gone."""


class Workers:
    """The processes of one node.

    Args:
        settings: of the node.
        queue: whose rows an ended process has left claimed.
        answered: is called when there is something to send.
        observe: is called with each stage of an image and its seconds.
    """

    def __init__(
        self,
        settings: NodeSettings,
        queue: Queue,
        answered: Callable[[], None],
        observe: Observe = unobserved,
    ) -> None:
        self._settings, self._queue = settings, queue
        self._answered, self._observe = answered, observe
        self._pipes: dict[str, Connection] = {}
        self._ready = threading.Semaphore(0)

    @property
    def names(self) -> Sequence[str]:
        """By which the processes claim."""
        return [f"worker {number + 1}" for number in range(self._settings.workers)]

    def await_ready(self, stop: threading.Event) -> None:
        """Wait until every process has loaded its models, or the node is told to stop."""
        for _ in self.names:
            while not self._ready.acquire(timeout=LOOK_SECONDS):
                if stop.is_set():
                    return

    def wake(self, stop: threading.Event, arrived: threading.Event) -> None:
        """Tell the processes of what arrived, until told to stop, and then to end."""
        while not stop.is_set():
            if arrived.wait(LOOK_SECONDS):
                arrived.clear()
                self._say("arrived")
        self._say("stop")

    def keep(self, stop: threading.Event, name: str) -> None:
        """Have one process run until told to stop.

        Raises:
            CxrError: it cannot open the queue, the log or a bundle.
        """
        while not stop.is_set():
            ours, theirs = multiprocessing.Pipe()
            context = multiprocessing.get_context("spawn")
            process = context.Process(target=work, args=(self._settings, name, theirs), name=name)
            process.start()
            theirs.close()
            self._pipes[name] = ours
            try:
                self._listen(ours)
            finally:
                del self._pipes[name]
                _end(process)
            if not stop.is_set():
                _log.error("The %s has ended (%s) and is started again", name, process.exitcode)
                self._release(name, stop)

    def _listen(self, pipe: Connection) -> None:
        with suppress(EOFError, OSError):
            while True:
                match pipe.recv():
                    case "ready":
                        self._ready.release()
                    case "answered":
                        self._answered()
                    case ("stage", name, seconds):
                        self._observe(name, seconds)
                    case ("error", error):
                        raise error

    def _say(self, word: Word) -> None:
        for pipe in list(self._pipes.values()):
            with suppress(OSError):
                pipe.send(word)

    def _release(self, name: str, stop: threading.Event) -> None:
        """Give back what an ended process had claimed, as soon as the queue can be used."""
        while not stop.wait(self._settings.limits.shortest_pause):
            try:
                self._queue.release_received(name)
                return
            except LogError as error:
                _log.error("The queue cannot be used: %s", error)


def _end(process: BaseProcess) -> None:
    process.join(STOP_SECONDS)
    process.kill()
    process.join()


def work(settings: NodeSettings, name: str, pipe: Connection) -> None:
    """Answer received images until the node says stop, or is gone: one process.

    Args:
        settings: of the node.
        name: by which it claims.
        pipe: to the node.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)  # which the whole group gets: the node decides
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("highdicom").setLevel(logging.CRITICAL)  # it quotes headers
    keep_freed_memory()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // settings.workers))
    stop, arrived = threading.Event(), threading.Event()
    threading.Thread(target=_obey, args=(pipe, stop, arrived), daemon=True).start()
    try:
        _answer(settings, name, pipe, stop, arrived)
    except CxrError as error:
        pipe.send(("error", error))


def _answer(
    settings: NodeSettings,
    name: str,
    pipe: Connection,
    stop: threading.Event,
    arrived: threading.Event,
) -> None:
    stages = Stages(lambda stage, seconds: pipe.send(("stage", stage, seconds)))
    storage = Storage(settings.storage)
    with ExitStack() as stack:
        stack.enter_context(storage.shared())
        queue = stack.enter_context(
            closing(Queue(settings.queue_url, settings.limits.longest_pause))
        )
        limits = Limits(file=settings.limits.object_bytes, workers=1)
        decoder = stack.enter_context(Decoder(limits, READER_FOR_MODEL))
        headers = stack.enter_context(HeaderReader())
        cache = stack.enter_context(closing(UploadCache(decoder.read, identify=str)))
        answering = Answering(services(settings, cache), settings.configuration, stages)
        contexts = stack.enter_context(opened(settings, queue)) if settings.context else None
        worker = Worker(settings, storage, queue, headers, answering, name, stages, contexts)
        pipe.send("ready")
        worker.run(stop, arrived, lambda: pipe.send("answered"))


def _obey(pipe: Connection, stop: threading.Event, arrived: threading.Event) -> None:
    """Take what the node says; without it the process ends at once."""
    try:
        while True:
            word: Any = pipe.recv()
            (stop if word == "stop" else arrived).set()
            if word == "stop":
                arrived.set()
    except (EOFError, OSError):
        os._exit(GONE)


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
