"""Part `pacs-faults`: a node that is killed, whose destination, disk or database is away or whose
clock is set back, and hostile peers.

Images are sent until each is accepted, some of them twice. Lost is what never reached the archive,
doubled what is there beyond one report, presentation state and capture of each image.
"""

import logging
import os
import random
import shutil
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from pydicom.dataset import Dataset
from sqlalchemy import func, select, update

from app.pacs.queue import Queue
from app.pacs.queue.tables import DELIVERIES, RECEIVED
from benchmarks.harness.cluster import PROGRAMS, Cluster
from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from benchmarks.system import pacs_objects, pacs_strangers
from benchmarks.system.pacs_hostile import attack, recorded
from benchmarks.system.pacs_peers import (
    OBJECTS,
    Node,
    Watched,
    awaited,
    free_port,
    is_stored,
    listening,
    node_command,
    node_file,
    orthanc,
    program,
    radiographs,
    renamed,
    status_of,
)
from cxr_mm.core.errors import StageError
from cxr_mm.prediction_log import open_log

TASK, SEED = "synthetic", 0


class Killing(NamedTuple):
    """Different images, those of them that are sent twice, and kills meanwhile."""

    images: int
    twice: int
    kills: int


KILLED, IN_POSTGRESQL = Killing(300, 60, 100), Killing(20, 5, 4)
"""Of a node whose queue is in SQLite, and in PostgreSQL."""
LATEST = 12.0
"""The latest moment of a kill after a start, in seconds; a start takes about half of that."""
AWAY_IMAGES, AWAY, COMPRESSED = 30, 600.0, 60.0
"""Images sent while a destination is away, for how long, and by how much time is compressed."""
OUTAGE_IMAGES, OUTAGE, TRIES = 12, 10.0, 5
"""Images sent before, during and after a disk or database is away, for how many seconds, and sent
once more meanwhile."""
DISK, FREE = 320 << 20, 64 << 20
"""Bytes of a small disk, and `free_bytes` of the node on it."""
OUT_OF_RESOURCES = 0xA700
SET_BACK, CLOCK_IMAGES, MOST_ATTEMPTS = timedelta(days=1), 10, 15
"""By how much a clock is set back, images sent before and after, and attempts of a row beyond which
it loops: more than its pauses allow while the archive is away."""
MESSAGES, HOSTILE_OBJECTS, OBJECT_SIDE = 10_000, 10_000, 64
"""Hostile messages, hostile objects, and pixels of a side of the image in each."""
IDLE = 5.0
"""`idle_seconds` of a node with hostile peers."""
MEMORY = 1.1
"""Most that a node may hold after them, against a tenth of them."""
SETTLE, DRAINS = 5.0, 1800.0
"""Seconds after the last object in which a doubled one would come, and within which hostile ones
have an end."""


def measure() -> list[Row]:
    """Rows of what was lost and doubled, let in and kept.

    Raises:
        StageError: there is no bundle, or Orthanc or PostgreSQL is not installed.
    """
    bundle = paths_of(TASK).bundle.resolve()
    if not has_run("fuse", paths_of(TASK)):
        raise StageError("no such folder", field=str(bundle), remedy="Run dvc repro")
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL)
    with tempfile.TemporaryDirectory() as name:
        site = Site(Path(name), bundle, list(radiographs()), program("Orthanc"))
        _check_installed()
        rows = list(_killed(site, "killed", KILLED))
        for found in (_away, _in_postgresql, _full_disk, _set_back, _hostile):
            rows += found(site)
        return rows


class Site(NamedTuple):
    """Where it is measured: an empty folder, the bundle, images, and the program of Orthanc."""

    folder: Path
    bundle: Path
    images: list[Dataset]
    server: str

    def below(self, name: str) -> Path:
        """A new folder."""
        folder = self.folder / name
        folder.mkdir()
        return folder


def _check_installed() -> None:
    """Refuse to begin what would end in the middle.

    Raises:
        StageError: PostgreSQL is missing.
    """
    for name in PROGRAMS:
        if shutil.which(name) is None:
            remedy = "apt install postgresql, and have its programs on the PATH"
            raise StageError("not installed", field=name, remedy=remedy)


def _killed(site: Site, name: str, killing: Killing, **changed: Any) -> Iterator[Row]:
    """Kill the node again and again, while images are sent to it and its answers come back.

    Args:
        name: of a folder.
        changed: settings of the node.
    """
    draw = random.Random(SEED)
    waiting = _drawn(killing.images, killing.twice, draw)
    part = -(-len(waiting) // (killing.kills + 1))
    folder, row = site.below(name), f"{killing.kills} kills"
    row += ", queue in PostgreSQL" if "queue" in changed else ""
    with orthanc(folder, site.server) as (archive, rest):
        port, file = node_file(folder / "node", site.bundle, archive, **changed)
        for _ in range(killing.kills):
            with _killed_after(node_command(file), draw.uniform(0, LATEST)):
                _send(port, site.images, waiting, part)
        with listening(node_command(file), port) as process:
            _send_all(port, site.images, waiting)
            yield from _counted(Node(port, process, rest), row, killing.images)
        with open_log(f"sqlite:///{file.parent / 'log.db'}") as log:
            extra = len(log.read_window(TASK)) - killing.images
    metric = "records of the log beyond or below one for each"
    yield Row(metric=metric, value=abs(extra), **_facts(row, killing.images))


def _away(site: Site) -> Iterator[Row]:
    """Have the archive go away before anything is sent, and come back."""
    seconds, folder = AWAY / COMPRESSED, site.below("away")
    limits = {"shortest_pause": 2.0 / COMPRESSED, "longest_pause": 300.0 / COMPRESSED}
    waiting = _drawn(AWAY_IMAGES, 0, random.Random(SEED))
    with orthanc(folder, site.server) as (archive, _):
        port, file = node_file(folder / "node", site.bundle, archive, limits=limits)
    with listening(node_command(file), port) as process:
        _send(port, site.images, waiting, len(waiting))
        time.sleep(seconds)
        with orthanc(folder, site.server, archive) as (_, rest):
            row = f"archive away for {AWAY:g} s, {COMPRESSED:g} times as fast"
            yield from _counted(Node(port, process, rest), row, AWAY_IMAGES)


def _in_postgresql(site: Site) -> Iterator[Row]:
    """Kill a node whose queue is in PostgreSQL, and then PostgreSQL."""
    cluster = Cluster()
    cluster.start()
    try:
        with cluster.database() as url:
            yield from _killed(site, "postgresql", IN_POSTGRESQL, queue=url)
        with cluster.database() as url:
            yield from _database_away(site, cluster, url)
    finally:
        cluster.remove()


def _database_away(site: Site, cluster: Cluster, url: str) -> Iterator[Row]:
    """Kill PostgreSQL while images are answered, and start it again."""
    folder, waiting = site.below("database"), list(range(OUTAGE_IMAGES))
    row = f"PostgreSQL killed, and away for {OUTAGE:g} s"
    with orthanc(folder, site.server) as (archive, rest):
        port, file = node_file(folder / "node", site.bundle, archive, queue=url)
        with listening(node_command(file), port) as process:
            _send(port, site.images, waiting, OUTAGE_IMAGES // 2)
            cluster.stop()
            yield _refused(port, site.images[0], row)
            time.sleep(OUTAGE)
            cluster.start()
            _send_all(port, site.images, waiting)
            yield from _counted(Node(port, process, rest), row, OUTAGE_IMAGES)


def _full_disk(site: Site) -> Iterator[Row]:
    """Fill the disk below what the node wants to be free, and then, amid its work, to the brim."""
    if os.geteuid() != 0:
        print("pacs-faults: the full disk is left out: only root can mount a small one")
        return
    folder, waiting = site.below("full"), list(range(OUTAGE_IMAGES))
    row, limits = f"disk full, of {DISK >> 20} MiB", {"free_bytes": FREE}
    with _small_disk(folder / "disk") as disk, orthanc(folder, site.server) as (archive, rest):
        storage, ballast = disk / "storage", disk / "ballast"
        changed = {"storage": str(storage), "limits": limits}
        port, file = node_file(folder / "node", site.bundle, archive, **changed)
        with listening(node_command(file), port) as process:
            _fill(ballast, FREE - (1 << 20))
            yield _refused(port, site.images[0], row)
            ballast.unlink()
            _send(port, site.images, waiting, OUTAGE_IMAGES // 2)
            until = time.monotonic() + OUTAGE
            while time.monotonic() < until:
                _fill(ballast, 0)  # again, since the node deletes what was delivered
                _send(port, site.images, waiting, 1, seconds=0.1)
            ballast.unlink()
            _send_all(port, site.images, waiting)
            yield from _counted(Node(port, process, rest), row, OUTAGE_IMAGES)
            awaited(lambda: not _files(storage), pacs_strangers.ENDS)
        yield Row(
            metric="files left behind", value=len(_files(storage)), **_facts(row, OUTAGE_IMAGES)
        )


@contextmanager
def _small_disk(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={DISK}", "tmpfs", str(folder)]
    subprocess.run(["mount", *options], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _fill(ballast: Path, left: int) -> None:
    """Write to a file until so many bytes of its disk are free."""
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while (more := shutil.disk_usage(ballast.parent).free - left) > 0:
            file.write(bytes(min(more, 1 << 20)))


def _files(storage: Path) -> list[Path]:
    """Images and answers, complete or not."""
    return [path for path in storage.glob("*/*") if path.is_file()]


def _set_back(site: Site) -> Iterator[Row]:
    """Have the clock be set back while answers wait for the archive.

    The times of all rows are moved ahead instead, which is the same to the queue and leaves the
    clock of the machine alone.
    """
    folder, waiting = site.below("clock"), list(range(2 * CLOCK_IMAGES))
    limits = {"shortest_pause": 0.5, "longest_pause": 5.0}
    with orthanc(folder, site.server) as (archive, _):
        port, file = node_file(folder / "node", site.bundle, archive, limits=limits)
    row = f"clock set back by {SET_BACK.days} day, archive away"
    with listening(node_command(file), port) as process:
        _send(port, site.images, waiting, CLOCK_IMAGES)
        with Watched(port, process, _queue_of(file)).opened() as queue:
            _move_ahead(queue)
            _send(port, site.images, waiting, CLOCK_IMAGES)
            time.sleep(2 * limits["longest_pause"])
            with orthanc(folder, site.server, archive) as (_, rest):
                _send_all(port, site.images, waiting)
                yield from _counted(Node(port, process, rest), row, 2 * CLOCK_IMAGES)
            with queue.reading() as connection:
                most = [connection.scalar(func.max(t.c.attempts)) for t in (RECEIVED, DELIVERIES)]
    facts = _facts(row, 2 * CLOCK_IMAGES) | {"must": MOST_ATTEMPTS}
    yield Row(metric="attempts of a row, most", value=max(map(int, most)), **facts)


def _move_ahead(queue: Queue) -> None:
    """Move the times of what waits, as if all had been written before the clock was set back."""
    with queue.transaction() as connection:
        for table, names in ((RECEIVED, ("received_at", "next_at")), (DELIVERIES, ("next_at",))):
            for row in connection.execute(select(table)).all():
                moved = {name: getattr(row, name) + SET_BACK for name in names}
                connection.execute(update(table).where(table.c.id == row.id).values(moved))


def _hostile(site: Site) -> Iterator[Row]:
    """Have hostile peers of every kind at one node; afterwards it takes an object as before."""
    image, folder, proper = _small(site.images[0]), site.below("hostile"), site.images[-1]
    destinations = [{"peer": "archive", "objects": ["sr"]}]
    rules = [{"bundle": str(site.bundle), "destinations": destinations}]
    changed = {"limits": {"idle_seconds": IDLE}, "rules": rules}
    port, file = node_file(folder / "node", site.bundle, free_port(), **changed)
    with listening(node_command(file), port) as process:
        node = Watched(port, process, _queue_of(file))
        yield from _messages(node, image)
        yield from _objects(node, image, proper, folder)
        yield from pacs_strangers.besieged(node, proper, IDLE, _facts("", 0))
        yield from pacs_strangers.strangers(node, _facts("", 0))
    tls = folder / "tls"
    yield from pacs_strangers.without_certificate(
        tls, site.bundle, proper, free_port(), _facts("", 0)
    )


def _small(image: Dataset) -> Dataset:
    """A copy of an image, of `OBJECT_SIDE` pixels a side."""
    small, step = renamed(image), image.Rows // OBJECT_SIDE
    pixels = image.pixel_array[::step, ::step][:OBJECT_SIDE, :OBJECT_SIDE]
    small.Rows, small.Columns = pixels.shape
    small.PixelData = pixels.tobytes()
    return small


def _messages(node: Watched, image: Dataset) -> Iterator[Row]:
    """Mutate what a peer says."""
    draw, own = random.Random(SEED), psutil.Process(node.process)
    units = recorded(node.port, image)
    attack(node.port, units, MESSAGES // 10, draw)
    before = own.memory_info().rss
    attack(node.port, units, MESSAGES - MESSAGES // 10, draw)
    time.sleep(SETTLE)
    grown = own.memory_info().rss / before
    waiting = [0]
    _send(node.port, [image], waiting, 1)
    facts = _facts(f"{MESSAGES} hostile messages", MESSAGES)
    yield Row(metric="objects refused afterwards", value=len(waiting), **facts)
    metric = "memory against that after a tenth of them"
    yield Row(metric=metric, value=round(grown, 3), **facts | {"must": MEMORY})


def _objects(node: Watched, image: Dataset, proper: Dataset, folder: Path) -> Iterator[Row]:
    """Mutate objects; whatever the node takes of them has an end and a reason."""
    node.await_drained(DRAINS)
    hostile = list(pacs_objects.objects(image, HOSTILE_OBJECTS, random.Random(SEED)))
    tenth, started = HOSTILE_OBJECTS // 10, time.monotonic()
    processes, counts = {each.pid for each in node.processes}, node.counts()
    statuses = pacs_objects.send(node.port, folder, hostile[:tenth])
    node.await_drained(DRAINS)
    before = node.memory()
    statuses += pacs_objects.send(node.port, folder, hostile[tenth:])
    node.await_drained(DRAINS)
    seconds, grown = time.monotonic() - started, node.memory() / before
    taken = node.newest(statuses.count(0))
    ended = sum(row["state"] == "answered" or _is_explained(row) for row in taken)
    refused = sum(status not in (0, None) for status in statuses)
    decoded = (node.counts() - counts)["not analysed: unreadable or rejected image"]
    facts = _facts(f"{HOSTILE_OBJECTS} hostile objects", HOSTILE_OBJECTS) | {"seconds": seconds}
    metric = "objects without a status, an answer or a reason"
    yield Row(metric=metric, value=len(hostile) - refused - ended, **facts)
    lost = len(processes - {each.pid for each in node.processes})
    yield Row(metric="processes of the node that ended", value=lost, **facts)
    answered = node.is_answered(renamed(proper), DRAINS)
    yield Row(metric="images not answered afterwards", value=1 - answered, **facts)
    metric = "memory of node and workers against that after a tenth of them"
    yield Row(metric=metric, value=round(grown, 3), **facts | {"must": MEMORY})
    metric = "objects whose pixels the decoder or the input gate rejected, with a reason"
    yield Row(metric=metric, value=decoded, **facts | {"must": None})


def _is_explained(row: dict[str, Any]) -> bool:
    return row["state"] == "not_analysed" and bool(row["reason"])


def _facts(row: str, number: int) -> dict[str, Any]:
    """What rows have in common: none of what they count may be."""
    facts: dict[str, Any] = {"task": TASK, "row": row, "n": number, "seed": SEED}
    return facts | {"must": 0, "ceiling": True}


def _queue_of(file: Path) -> str:
    """URL of the queue of a node, by its file."""
    return f"sqlite:///{file.parent / 'storage' / 'queue.db'}"


def _refused(port: int, image: Dataset, row: str) -> Row:
    """Send an image a few times that the node must refuse for now."""
    statuses = [status_of(port, renamed(image)) for _ in range(TRIES)]
    metric = f"images answered by another status than {OUT_OF_RESOURCES:#06x}"
    value = TRIES - statuses.count(OUT_OF_RESOURCES)
    return Row(metric=metric, value=value, **_facts(row, TRIES))


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


def _send(
    port: int, images: list[Dataset], waiting: list[int], most: int, seconds: float = LATEST
) -> None:
    """Send images until so many are accepted, or for a while; those are taken off the list."""
    left, until = len(waiting) - most, time.monotonic() + seconds
    while len(waiting) > max(0, left) and time.monotonic() < until:
        number = waiting[-1]
        if is_stored(port, renamed(images[number % len(images)], f"image {number}")):
            waiting.pop()
        else:
            time.sleep(0.1)  # it does not listen yet, was killed, or cannot take it now


def _send_all(port: int, images: list[Dataset], waiting: list[int]) -> None:
    """Send images until each is accepted."""
    while waiting:
        _send(port, images, waiting, len(waiting))


def _counted(node: Node, row: str, number: int) -> Iterator[Row]:
    """What is lost and doubled of so many images."""
    with suppress(TimeoutError):
        node.await_count(number * len(OBJECTS))
    time.sleep(SETTLE)
    extra = node.count() - number * len(OBJECTS)
    for metric, value in (("objects lost", -extra), ("objects doubled", extra)):
        yield Row(metric=metric, value=max(0, value), **_facts(row, number))
