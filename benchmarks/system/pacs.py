"""Part `pacs`: radiographs sent to a node, and its answers back in Orthanc, all on loopback.

The node and Orthanc are processes of their own; the images are synthetic, as large as a detector.
"""

import logging
import multiprocessing
import os
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from multiprocessing.pool import Pool
from pathlib import Path

import numpy as np
import psutil
import pydicom
import torch
from pydicom.dataset import Dataset

from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from benchmarks.system import pacs_peers
from benchmarks.system.pacs_cases import COMPRESSIONS, compressed, other_networks
from benchmarks.system.pacs_peers import (
    OBJECTS,
    SLOW_LOOK,
    Node,
    associated,
    file_of,
    files_of,
    free_port,
    listening,
    orthanc,
    program,
    radiographs,
    renamed,
    running_node,
    sending,
    stored,
)
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import StageError
from cxr_mm.data.studies import build_study
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.imaging.sandbox import SANDBOXED
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.bundle import load_bundle

TASK = "synthetic"
ALONE, TOGETHER, RECEIVED = 200, 60, 60
"""Images sent one at a time, all at once, and against DCMTK's `storescp`."""
FEW = 20
"""Images sent at once in each of the cases that are dearer to decode or to answer."""
ROUNDS, WARM = 2, 4
"""Times that all are sent at once, between measurements of the bare work; and images for each
process until it is warm."""
CORES = os.cpu_count() or 1
WORKERS = CORES + 1
"""Processes of the node that answer: each waits for the disk at times."""


def measure() -> list[Row]:
    """Rows of latency, throughput and the rate of receiving.

    Raises:
        StageError: there is no bundle, or Orthanc or DCMTK is not installed.
    """
    bundle = paths_of(TASK).bundle.resolve()
    if not has_run("fuse", paths_of(TASK)):
        raise StageError("no such folder", field=str(bundle), remedy="Run dvc repro")
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)  # else a line for each message
    programs = {name: program(name) for name in ("Orthanc", "storescu", "storescp")}
    with tempfile.TemporaryDirectory() as name:
        folder, send = Path(name), programs["storescu"]
        images = list(radiographs())
        with orthanc(folder, programs["Orthanc"]) as (port, rest):
            with running_node(folder / "node", bundle, port, workers=WORKERS) as started:
                node = Node(*started, rest)
                rows = list(_alone(node, images))
                files = files_of(images, TOGETHER, folder / "together")
                rows += _together(node, files, bundle, Case(send, must=0.7, aim=0.85))
                for title, each in COMPRESSIONS.items():
                    packed = compressed(images, each, folder / each.syntax)
                    files = files_of(packed, FEW, folder / f"together {each.syntax}")
                    rows += _together(node, files, bundle, Case(send, (each.option,), title))
            for title, other in other_networks(folder, bundle):
                files = files_of(images, WARM * WORKERS + FEW, folder / f"together {title}")
                warm, few = files[:-FEW], files[-FEW:]
                with running_node(folder / title, other, port, workers=WORKERS) as started:
                    node, case = Node(*started, rest), Case(send, title=title)
                    _sent(node, warm, case)
                    rows += _together(node, few, other, case)
            with running_node(folder / "receiving", bundle, port) as (node_port, _):
                rows += _receiving(folder, node_port, images, programs)
    return rows


def _alone(node: Node, images: list[Dataset]) -> Iterator[Row]:
    """From an image that the node has accepted to all of its objects in the archive."""
    seconds = []
    for number in range(ALONE):
        image, before = renamed(images[number % len(images)]), node.count()
        association = associated(node.port)
        accepted = stored(association, image)
        seconds.append(node.await_count(before + len(OBJECTS)) - accepted)
        association.release()
    facts = {
        "task": TASK,
        "row": f"one at a time, {pacs_peers.SIDE} × {pacs_peers.SIDE}",
        "n": ALONE,
        "seed": 0,
    }
    yield Row(metric="seconds, median", value=round(statistics.median(seconds), 3), **facts)
    slow = round(float(np.quantile(seconds, 0.95)), 3)
    yield Row(metric="seconds, p95", value=slow, must=3, aim=2, ceiling=True, **facts)


@dataclass(frozen=True)
class Case:
    """How images are sent at once, and what is asked of the rate.

    Args:
        send: path of `storescu`.
        options: for it.
        title: of the case; empty for the usual one.
        must, aim: of the share of the bare rate.
    """

    send: str
    options: tuple[str, ...] = ()
    title: str = ""
    must: float | None = None
    aim: float | None = None


def _together(node: Node, files: list[str], bundle: Path, case: Case) -> Iterator[Row]:
    """Images a second of a full queue, as a share of what decoding, forward pass and Grad-CAM, each
    by itself, allow on the same cores, one process and thread each; and the processor time of
    either. Measured in turn, since others may use the machine, which moves the first figure more
    than the second. The node explains in the pass that answers: the share of that is told too.
    """
    sent, worked = 0.0, _processor_seconds(node.process)
    with _processes(bundle) as pool:
        bare = [_bare(pool, files)]
        for _ in range(ROUNDS):
            sent += _sent(node, files, case)
            files = [file_of(renamed(pydicom.dcmread(file)), Path(file)) for file in files]
            bare.append(_bare(pool, files))
        by_one_pass = _bare(pool, files, keep_maps=True)
    number = ROUNDS * len(files)
    worked = (_processor_seconds(node.process) - worked) / number
    row = f"{len(files)} at once, {pacs_peers.SIDE} × {pacs_peers.SIDE}, {CORES} cores"
    row += f", {case.title}" if case.title else ""
    facts = {"task": TASK, "row": row, "n": number, "seed": 0}
    yield Row(metric="images a minute", value=round(60 * number / sent), **facts)
    metric = "rate as a share of decode, forward and Grad-CAM"
    share = number / sent / statistics.mean(rate for rate, _ in bare)
    yield Row(metric=metric, value=round(share, 3), must=case.must, aim=case.aim, **facts)
    share = number / sent / by_one_pass[0]
    metric = "rate as a share of decode, and Grad-CAM by the one forward pass"
    yield Row(metric=metric, value=round(share, 3), **facts)
    share = statistics.mean(seconds for _, seconds in bare) / worked
    metric = "processor time of decode, forward and Grad-CAM as a share of the node's"
    yield Row(metric=metric, value=round(share, 3), **facts)


def _sent(node: Node, files: list[str], case: Case) -> float:
    """Seconds from the first image that is sent to the last object in the archive."""
    before, started = node.count(), time.monotonic()
    command = sending(case.send, node.port, files, *case.options)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return node.await_count(before + len(files) * len(OBJECTS), SLOW_LOOK) - started


def _processes(bundle: Path) -> Pool:
    """As many processes as cores, with the model."""
    return multiprocessing.get_context("spawn").Pool(CORES, _load, (bundle,))


def _bare(pool: Pool, files: list[str], *, keep_maps: bool = False) -> tuple[float, float]:
    """Images a second, each decoded, answered and explained by Grad-CAM, and nothing else; and the
    processor seconds of one.

    Args:
        pool: of `_processes`.
        files: of the images.
        keep_maps: whether Grad-CAM takes the maps of the pass that answers, instead of its own.
    """
    explain = partial(_explain, keep_maps)
    pool.map(explain, files[: WARM * CORES], chunksize=1)
    started = time.perf_counter()
    seconds = pool.map(explain, files, chunksize=1)
    return len(files) / (time.perf_counter() - started), statistics.mean(seconds)


def _processor_seconds(process: int) -> float:
    """Processor time so far of a process and of those that it started."""
    found = psutil.Process(process)
    times = [each.cpu_times() for each in (found, *found.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


_BARE: dict[bool, Predictor] = {}
"""Whether maps are kept → the model of a process of `_processes`."""


def _load(bundle: Path) -> None:
    os.environ[SANDBOXED] = "1"  # whatever decodes does so in this process
    keep_freed_memory()
    torch.set_num_threads(1)
    loaded = load_bundle(bundle)
    _BARE.update({kept: Predictor(loaded, keep_maps=kept) for kept in (False, True)})


def _explain(keep_maps: bool, file: str) -> float:
    """Work on one image; the processor seconds of that."""
    started, predictor = time.process_time(), _BARE[keep_maps]
    bundle = predictor.bundle
    study = build_study(bundle.task, partial(read_radiograph, Path(file)), {}, None, "PA")
    answer = predictor.answer_one(study)
    target = Target(bundle.task.finding_names[0])
    METHODS["grad_cam"].explain(Subject.of(bundle, answer), target, Ask())
    return time.process_time() - started


def _receiving(
    folder: Path, port: int, images: list[Dataset], programs: dict[str, str]
) -> Iterator[Row]:
    """Images a second that the node takes, answering them meanwhile, against `storescp`."""
    sent, kept = folder / "sent", folder / "kept"
    kept.mkdir()
    files = files_of(images, RECEIVED, sent)
    send = programs["storescu"]
    other = free_port()
    with listening([programs["storescp"], "-od", str(kept), str(other)], other):
        theirs = _timed([send, "-aec", "ANY", "127.0.0.1", str(other), *files])
    ours = _timed(sending(send, port, files))
    facts = {"task": TASK, "row": f"{RECEIVED} sent by storescu", "n": RECEIVED, "seed": 0}
    metric = "rate against DCMTK's storescp"
    yield Row(metric=metric, value=round(theirs / ours, 3), must=0.5, aim=0.8, **facts)


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started
