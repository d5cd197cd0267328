"""Processes: several servers of the same pages, each on a port of its own, behind one proxy.

What a page keeps of a browser (uploads, answers, its place in the queue) lies in one process, so
the proxy has to keep each user on one port. Who has signed in, prediction log and feedback are
common.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from app.settings import Settings
from cxr_mm.core.allocator import keep_freed_memory, without_collection
from cxr_mm.core.processes import end_with_parent, errors_as_one_line
from cxr_mm.core.progress import heartbeat
from cxr_mm.core.verdict import ERROR_EXIT_CODE

if TYPE_CHECKING:
    from app.security.auth import SharedSessions

_log = logging.getLogger(__name__)
Serve = Callable[[Settings, "SharedSessions"], None]
ARENAS = 2
"""Heaps that the threads share: with one each, memory grows for hours."""
THREADS_VARIABLE = "OMP_NUM_THREADS"
PAUSE_SECONDS = 1.0
"""Before a process that ended is started again."""
STOP_SECONDS = 30.0


def serve_one(settings: Settings, shared: "SharedSessions | None" = None) -> None:
    """Run one server until a signal ends it.

    Args:
        settings: what is served.
        shared: what it knows of sessions in common with other processes; None for it alone.

    Raises:
        CxrError: something that it needs is missing or damaged.
    """
    with contextlib.ExitStack() as stack:
        loading = f"loading {', '.join(map(str, settings.bundles))}"
        with heartbeat(loading), without_collection():
            from app.calls import MOST_WAITING
            from app.metrics import Metrics  # slow to import, as are the others
            from app.server import application, build_pages, run, services_of, upload_folder
            from app.upload_cache import UploadCache
            from cxr_mm.imaging.decoder import Decoder
            from cxr_mm.imaging.decoder import Limits as DecoderLimits

            keep_freed_memory(ARENAS)
            metrics = Metrics(settings.root)
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
            uploads = stack.enter_context(upload_folder())
            decoder = stack.enter_context(Decoder(DecoderLimits(waiting=MOST_WAITING)))
            cache = stack.enter_context(contextlib.closing(UploadCache(decoder.read)))
            inbox = None
            if settings.node:
                from app.pacs.watch.inbox import QueueInbox

                inbox = stack.enter_context(QueueInbox(settings.node))
            services = services_of(settings, metrics, cache, inbox)
            pages = build_pages(services, settings, uploads, inbox)
            app = application(settings, pages, uploads, metrics, shared)
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        for mounted in pages:
            address = f"http://{host}:{settings.port}{mounted.path}"
            sys.stdout.write(f"{mounted.blocks.title}: {address}\n")
        sys.stdout.flush()
        run(app, pages, settings)


def serve_all(settings: Settings, serve: Serve = serve_one) -> NoReturn:
    """Run a server on each port until a signal ends them all; one that ends is started again.

    Args:
        settings: `port` is the first of as many as there are processes.
        serve: runs one server; a function that a new process can import.

    Raises:
        SystemExit: 0 after a signal; 2 where a process could not start and has said why.
    """
    from app.security.auth import SharedSessions  # slow to import

    cores = os.cpu_count() or 1
    os.environ.setdefault(THREADS_VARIABLE, str(max(1, cores // settings.processes)))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    ports = range(settings.port, settings.port + settings.processes)
    running: dict[int, BaseProcess] = {}
    with tempfile.TemporaryDirectory(prefix="cxr-mm-sessions-") as folder:
        shared = SharedSessions.begun(Path(folder))
        try:
            while True:
                for port in ports:
                    if port not in running:
                        running[port] = _start(serve, replace(settings, port=port), shared)
                wait([process.sentinel for process in running.values()])
                _take_away_ended(running)
                time.sleep(PAUSE_SECONDS)
        finally:
            _end(running)


def _start(serve: Serve, settings: Settings, shared: "SharedSessions") -> BaseProcess:
    context = multiprocessing.get_context("spawn")  # a copy of a process with threads may hang
    process = context.Process(target=_run, args=(serve, settings, shared))
    process.start()
    return process


def _run(serve: Serve, settings: Settings, shared: "SharedSessions") -> None:
    end_with_parent()
    with errors_as_one_line():
        serve(settings, shared)


def _take_away_ended(running: dict[int, BaseProcess]) -> None:
    for port, process in list(running.items()):
        if process.exitcode is None:
            continue
        if process.exitcode == ERROR_EXIT_CODE:
            raise SystemExit(ERROR_EXIT_CODE)
        del running[port]
        _log.error(
            "The process on port %d has ended (%s) and is started again", port, process.exitcode
        )


def _end(running: dict[int, BaseProcess]) -> None:
    for process in running.values():
        process.terminate()
    until = time.monotonic() + STOP_SECONDS
    for process in running.values():
        process.join(max(0.0, until - time.monotonic()))
        process.kill()
        process.join()
