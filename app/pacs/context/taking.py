"""Taking clinical context in, beside the node: drop folders and MLLP, and upkeep of the book."""

import logging
import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Self

from app.pacs.context.book import book_of
from app.pacs.context.intake import Intake
from app.pacs.context.mllp import Listener
from app.pacs.queue import Queue
from app.pacs.settings import NodeSettings, listening_context
from cxr_mm.core.errors import LogError, StorageError

_log = logging.getLogger(__name__)
LOOK_SECONDS, FAULT_SECONDS = 1.0, 10.0
"""Between two looks, and besides after one that failed."""
FORGET_EACH = 60
"""Looks between two upkeeps of the book."""


class Taking:
    """Takes facts as long as it is open.

    Args:
        settings: of the node; it has `context`.
        queue: in whose database facts go.
        arrived: is called after new facts.

    Raises:
        ParamsError: the address of the listener cannot be had, or a certificate cannot be used.
        LogError: the secret of the hashes is missing.
    """

    def __init__(self, settings: NodeSettings, queue: Queue, arrived: Callable[[], None]) -> None:
        assert settings.context is not None
        self._settings, self._arrived = settings.context, arrived
        self._book = book_of(settings.queue_url, queue)
        self._intake = Intake(settings.context, self._book, queue, arrived)
        self._open = ExitStack()
        if listener := settings.context.mllp:
            tls = listening_context(settings.tls) if settings.tls and listener.tls else None
            self._open.enter_context(Listener(listener, self._intake, tls))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def run(self, stop: threading.Event) -> None:
        """Look at the drop folders until told to stop, and forget what is old.

        Images that may be answered again are looked at once at the start, for what arrived while
        the node was down, and as often as `ask_again_seconds` says if a source has to be asked.
        """
        looks, has_sources = 0, bool(self._settings.sql or self._settings.fhir_servers)
        each = max(1, round(self._settings.ask_again_seconds / LOOK_SECONDS))
        while not stop.is_set():
            try:
                if looks == 0 or (has_sources and looks % each == 0):
                    self._book.wake()
                    self._arrived()
                self._intake.look()
                if looks % FORGET_EACH == 0:
                    self._book.forget(self._settings.keep_hours)
                looks += 1
            except (LogError, StorageError) as error:
                _log.error("Not all context is taken: %s", error)
                stop.wait(FAULT_SECONDS)
            stop.wait(LOOK_SECONDS)
