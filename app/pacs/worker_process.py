"""One process that answers, from its start to its end; `workers` are the node's side of it."""

import gc
import logging
import os
import signal
import threading
from contextlib import ExitStack, closing
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from app.model_watcher import load_models
from app.pacs.answering import Answering
from app.pacs.context.studies import opened
from app.pacs.header import HeaderReader
from app.pacs.queue import Queue
from app.pacs.settings import NodeSettings
from app.pacs.stages import Stages
from app.pacs.storage import Storage
from app.pacs.worker import Worker
from app.service import InferenceService
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import CxrError
from cxr_mm.imaging.decoder import FITTING_READER, Decoder, Limits
from cxr_mm.imaging.radiograph import DecodedImage
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.bundle import Bundle
from cxr_mm.prediction_log import open_spooled_log

GONE = 1
"""Exit status of a process whose node has gone."""


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
    timed: list[tuple[str, float]] = []
    stages = Stages(lambda stage, seconds: timed.append((stage, seconds)))

    def answered() -> None:
        pipe.send(("answered", tuple(timed)))
        timed.clear()

    storage = Storage(settings.storage)
    with ExitStack() as stack:
        stack.enter_context(storage.shared())
        queue = stack.enter_context(
            closing(Queue(settings.queue_url, settings.limits.longest_pause))
        )
        limits = Limits(file=settings.limits.object_bytes, workers=1)
        decoder = stack.enter_context(Decoder(limits, FITTING_READER))
        headers = stack.enter_context(HeaderReader())
        read = partial(_read, decoder)
        answering = Answering(services(settings), read, settings.configuration, stages)
        contexts = stack.enter_context(opened(settings, queue)) if settings.context else None
        worker = Worker(settings, storage, queue, headers, answering, name, stages, contexts)
        gc.freeze()  # models and libraries stay: no collection need look through them
        pipe.send("ready")
        worker.run(stop, arrived, answered)


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


def _read(decoder: Decoder, path: Path, bundle: Bundle) -> DecodedImage:
    return decoder.read(path, path.name, size=bundle.size, mask_text=bundle.mask_text)


def services(settings: NodeSettings) -> dict[Path, InferenceService]:
    """Service of each bundle that a rule names, all with one prediction log.

    Raises:
        BundleError: a bundle is damaged, foreign or incomplete.
        LogError: the log cannot be opened.
    """
    models = load_models(settings.bundles, partial(load_predictor, keep_maps=True))
    log = open_spooled_log(settings.log, site=settings.site) if settings.log else None
    found = [InferenceService(model, log, source="pacs") for model in models]
    return dict(zip(settings.bundles, found, strict=True))
