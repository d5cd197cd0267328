"""Part `pacs-faults`: a node that is killed at random moments, a destination that is away, and
hostile peers.

Images are sent until each is accepted, some of them twice. Lost is what never reached the archive,
doubled what is there beyond one report, presentation state and capture of each image.
"""

import logging
import random
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
from pydicom.dataset import Dataset

from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from benchmarks.system.pacs_hostile import attack, recorded
from benchmarks.system.pacs_peers import (
    OBJECTS,
    Node,
    associated,
    free_port,
    listening,
    node_command,
    node_file,
    orthanc,
    program,
    radiographs,
    renamed,
    stored,
)
from cxr_mm.core.errors import StageError
from cxr_mm.prediction_log import open_log

TASK, SEED = "synthetic", 0
IMAGES, TWICE, KILLS, LATEST = 300, 60, 100, 12.0
"""Different images, those of them that are sent twice, kills, and the latest moment of one after a
start, in seconds; a start takes about half of that."""
AWAY_IMAGES, AWAY, COMPRESSED = 30, 600.0, 60.0
"""Images sent while a destination is away, for how long, and by how much time is compressed."""
MESSAGES, OBJECT_SIDE = 10_000, 64
"""Hostile messages, and pixels of a side of the image in each."""
MEMORY = 1.1
"""Most that the process that receives may hold after them, against a tenth of them."""
SETTLE = 5.0
"""Seconds after the last object in which a doubled one would come."""


def measure() -> list[Row]:
    """Rows of what was lost and doubled.

    Raises:
        StageError: there is no bundle, or Orthanc is not installed.
    """
    bundle = paths_of(TASK).bundle.resolve()
    if not has_run("fuse", paths_of(TASK)):
        raise StageError("no such folder", field=str(bundle), remedy="Run dvc repro")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    server = program("Orthanc")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = list(radiographs())
        rows = list(_killed(folder, bundle, images, server))
        rows += _away(folder, bundle, images, server)
        return [*rows, *_hostile(folder, bundle, images[0])]


def _killed(folder: Path, bundle: Path, images: list[Dataset], server: str) -> Iterator[Row]:
    """Kill the node again and again, while images are sent to it and its answers come back."""
    draw = random.Random(SEED)
    waiting = _drawn(IMAGES, TWICE, draw)
    part = -(-len(waiting) // (KILLS + 1))
    (folder / "killed").mkdir()
    with orthanc(folder / "killed", server) as (archive, rest):
        port, file = node_file(folder / "killed" / "node", bundle, archive)
        for _ in range(KILLS):
            with _killed_after(node_command(file), draw.uniform(0, LATEST)):
                _send(port, images, waiting, part)
        with listening(node_command(file), port) as process:
            while waiting:
                _send(port, images, waiting, len(waiting))
            yield from _counted(Node(port, process, rest), f"{KILLS} kills", IMAGES)
        with open_log(f"sqlite:///{file.parent / 'log.db'}") as log:
            extra = len(log.read_window(TASK)) - IMAGES
    facts = {"task": TASK, "row": f"{KILLS} kills", "n": IMAGES, "seed": SEED}
    metric = "records of the log beyond or below one for each"
    yield Row(metric=metric, value=abs(extra), must=0, ceiling=True, **facts)


def _away(folder: Path, bundle: Path, images: list[Dataset], server: str) -> Iterator[Row]:
    """Have the archive go away before anything is sent, and come back."""
    seconds = AWAY / COMPRESSED
    limits = {"shortest_pause": 2.0 / COMPRESSED, "longest_pause": 300.0 / COMPRESSED}
    waiting = _drawn(AWAY_IMAGES, 0, random.Random(SEED))
    (folder / "away").mkdir()
    with orthanc(folder / "away", server) as (archive, _):
        port, file = node_file(folder / "away" / "node", bundle, archive, limits=limits)
    with listening(node_command(file), port) as process:
        _send(port, images, waiting, len(waiting))
        time.sleep(seconds)
        with orthanc(folder / "away", server, archive) as (_, rest):
            row = f"archive away for {AWAY:g} s, {COMPRESSED:g} times as fast"
            yield from _counted(Node(port, process, rest), row, AWAY_IMAGES)


def _hostile(folder: Path, bundle: Path, image: Dataset) -> Iterator[Row]:
    """Mutate what a peer says; afterwards the node takes an object as before."""
    image = renamed(image)
    image.Rows = image.Columns = OBJECT_SIDE
    image.PixelData = image.PixelData[: 2 * OBJECT_SIDE**2]
    draw = random.Random(SEED)
    limits = {"idle_seconds": 2.0}
    port, file = node_file(folder / "hostile", bundle, free_port(), limits=limits)
    with listening(node_command(file), port) as number:
        process = psutil.Process(number)
        units = recorded(port, image)
        attack(port, units, MESSAGES // 10, draw)
        before = process.memory_info().rss
        attack(port, units, MESSAGES - MESSAGES // 10, draw)
        time.sleep(SETTLE)
        grown = process.memory_info().rss / before
        waiting = [0]
        _send(port, [image], waiting, 1)
    facts = {"task": TASK, "row": f"{MESSAGES} hostile messages", "n": MESSAGES, "seed": SEED}
    metric = "objects refused afterwards"
    yield Row(metric=metric, value=len(waiting), must=0, ceiling=True, **facts)
    metric = "memory against that after a tenth of them"
    yield Row(metric=metric, value=round(grown, 3), must=MEMORY, ceiling=True, **facts)


def _drawn(number: int, twice: int, draw: random.Random) -> list[int]:
    """Numbers of so many images, some of them twice, in any order."""
    found = [*range(number), *draw.sample(range(number), twice)]
    draw.shuffle(found)
    return found


@contextmanager
def _killed_after(command: list[str], seconds: float) -> Iterator[None]:
    """A program that is killed after so many seconds, whatever the body does meanwhile."""
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        timer = threading.Timer(seconds, process.kill)
        timer.start()
        yield
        timer.join()


def _send(port: int, images: list[Dataset], waiting: list[int], most: int) -> None:
    """Send images until so many are accepted, or for a while; those are taken off the list."""
    left, until = len(waiting) - most, time.monotonic() + LATEST
    while len(waiting) > max(0, left) and time.monotonic() < until:
        try:
            number = waiting[-1]
            association = associated(port)
            stored(association, renamed(images[number % len(images)], f"image {number}"))
            association.release()
        except (AssertionError, RuntimeError, ValueError):
            time.sleep(0.1)  # it does not listen yet, or was killed
        else:
            waiting.pop()


def _counted(node: Node, row: str, number: int) -> Iterator[Row]:
    """What is lost and doubled of so many images."""
    facts = {"task": TASK, "row": row, "n": number, "seed": SEED}
    with suppress(TimeoutError):
        node.await_count(number * len(OBJECTS))
    time.sleep(SETTLE)
    extra = node.count() - number * len(OBJECTS)
    for metric, value in (("objects lost", -extra), ("objects doubled", extra)):
        yield Row(metric=metric, value=max(0, value), must=0, ceiling=True, **facts)
