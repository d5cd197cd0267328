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
from functools import partial
from pathlib import Path

import numpy as np
import psutil
import pydicom
import torch
from pydicom.dataset import Dataset

from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from benchmarks.system import pacs_peers
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
from cxr_mm.inference.predictor import Predictor, load_predictor

TASK = "synthetic"
ALONE, TOGETHER, RECEIVED = 200, 60, 60
"""Images sent one at a time, all at once, and against DCMTK's `storescp`."""
ROUNDS = 2
"""Times that all are sent at once, between measurements of the bare work."""
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
        folder = Path(name)
        images = list(radiographs())
        with orthanc(folder, programs["Orthanc"]) as (port, rest):
            with running_node(folder / "node", bundle, port, workers=WORKERS) as started:
                node_port, process = started
                node = Node(node_port, process, rest)
                rows = list(_alone(node, images))
                files = files_of(images, TOGETHER, folder / "together")
                rows += _together(node, files, bundle, programs["storescu"])
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


def _together(node: Node, files: list[str], bundle: Path, send: str) -> Iterator[Row]:
    """Images a second of a full queue, as a share of what decoding, forward pass and Grad-CAM, each
    by itself, allow on the same cores, one process and thread each; and the processor time of
    either. Measured in turn, since others may use the machine, which moves the first figure more
    than the second. The node explains in the pass that answers: the share of that is told too.
    """
    bare, sent, worked = [_bare(files, bundle)], 0.0, _processor_seconds(node.process)
    for _ in range(ROUNDS):
        before, started = node.count(), time.monotonic()
        subprocess.run(sending(send, node.port, files), check=True, stdout=subprocess.DEVNULL)
        sent += node.await_count(before + len(files) * len(OBJECTS), SLOW_LOOK) - started
        files = [file_of(renamed(pydicom.dcmread(file)), Path(file)) for file in files]
        bare.append(_bare(files, bundle))
    number = ROUNDS * len(files)
    worked = (_processor_seconds(node.process) - worked) / number
    row = f"{len(files)} at once, {pacs_peers.SIDE} × {pacs_peers.SIDE}, {CORES} cores"
    facts = {"task": TASK, "row": row, "n": number, "seed": 0}
    yield Row(metric="images a minute", value=round(60 * number / sent), **facts)
    metric = "rate as a share of decode, forward and Grad-CAM"
    share = number / sent / statistics.mean(rate for rate, _ in bare)
    yield Row(metric=metric, value=round(share, 3), must=0.7, aim=0.85, **facts)
    share = number / sent / _bare(files, bundle, keep_maps=True)[0]
    metric = "rate as a share of decode, and Grad-CAM by the one forward pass"
    yield Row(metric=metric, value=round(share, 3), **facts)
    share = statistics.mean(seconds for _, seconds in bare) / worked
    metric = "processor time of decode, forward and Grad-CAM as a share of the node's"
    yield Row(metric=metric, value=round(share, 3), **facts)


def _bare(files: list[str], bundle: Path, *, keep_maps: bool = False) -> tuple[float, float]:
    """Images a second, each decoded, answered and explained by Grad-CAM, and nothing else; and the
    processor seconds of one.

    Args:
        keep_maps: whether Grad-CAM takes the maps of the pass that answers, instead of its own.
    """
    with multiprocessing.get_context("spawn").Pool(CORES, _load, (bundle, keep_maps)) as pool:
        pool.map(_explain, files, chunksize=1)  # until everything is warm
        started = time.perf_counter()
        seconds = pool.map(_explain, files, chunksize=1)
        return len(files) / (time.perf_counter() - started), statistics.mean(seconds)


def _processor_seconds(process: int) -> float:
    """Processor time so far of a process and of those that it started."""
    found = psutil.Process(process)
    times = [each.cpu_times() for each in (found, *found.children(recursive=True))]
    return float(sum(each.user + each.system for each in times))


_BARE: dict[str, Predictor] = {}
"""The model of a process of `_bare`."""


def _load(bundle: Path, keep_maps: bool) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    _BARE["predictor"] = load_predictor(bundle, keep_maps=keep_maps)


def _explain(file: str) -> float:
    """Work on one image; the processor seconds of that."""
    started, predictor = time.process_time(), _BARE["predictor"]
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
