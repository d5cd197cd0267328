"""Processes that answer: started again when they end, so that an image that takes one with it
costs neither what is being received nor what is being sent.

Node and process speak over a pipe, whose end tells each that the other has gone.
"""

import logging
import multiprocessing
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Literal

from app.pacs.queue import Queue
from app.pacs.settings import NodeSettings
from app.pacs.stages import Observe, unobserved
from cxr_mm.core.allocator import without_collection
from cxr_mm.core.errors import LogError

_log = logging.getLogger(__name__)
Word = Literal["arrived", "stop"]
"""What the node says to a process; a process says `ready`, `answered` with name and seconds of each
stage of the image, or `error` with the error that ends it."""
LOOK_SECONDS = 0.5
STOP_SECONDS = 5.0
"""For which the end waits for the image at hand; what was not ended is done again."""


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
            process = context.Process(target=_work, args=(self._settings, name, theirs), name=name)
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
                    case ("answered", stages):
                        for name, seconds in stages:
                            self._observe(name, seconds)
                        self._answered()
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


def _work(settings: NodeSettings, name: str, pipe: Connection) -> None:
    with without_collection():
        from app.pacs.worker_process import work  # torch, which the node itself does not need

    work(settings, name, pipe)
