"""Peers of the parts `pacs` and `pacs-faults`: a node, Orthanc, DCMTK and synthetic radiographs."""

import json
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import yaml
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation

from app.pacs.queue import Queue
from app.pacs.queue.upkeep import rows, status
from cxr_mm.core.errors import StageError
from cxr_mm.data.synthetic.dicom import as_dicom, set_pixels
from cxr_mm.data.synthetic.phantom import draw_image
from cxr_mm.data.synthetic.population import SynthesisSpec, draw_cases

OBJECTS = ("sr", "gsps", "sc")
STARTS, ENDS = 120.0, 600.0
"""Seconds within which a program must listen, and all answers must be back."""
LOOK = 0.01
"""Seconds between two looks into Orthanc."""
SLOW_LOOK = 0.1
"""Seconds between two looks at anything else."""
PHANTOMS = 10
"""Different images; each is sent under many UIDs."""
SIDE = 2048
WORKERS = 2
"""Processes of a node that answer."""


@dataclass(frozen=True)
class Node:
    """A node, and the archive that its answers go to.

    Args:
        port: of the node.
        process: its id.
        archive: address of Orthanc's REST interface.
    """

    port: int
    process: int
    archive: str

    def count(self) -> int:
        """Instances in the archive."""
        with urllib.request.urlopen(f"{self.archive}/statistics", timeout=10) as answer:
            return int(json.load(answer)["CountInstances"])

    def await_count(self, count: int, look: float = LOOK) -> float:
        """The time (`time.monotonic`) at which the archive was seen to hold so many instances.

        Args:
            count: of instances.
            look: seconds between two looks, each of which takes work from the machine.

        Raises:
            TimeoutError: it never does.
        """
        until = time.monotonic() + ENDS
        while time.monotonic() < until:
            if self.count() >= count:
                return time.monotonic()
            time.sleep(look)
        raise TimeoutError(f"{self.count()} of {count} objects are back")


@dataclass(frozen=True)
class Watched:
    """A node that runs.

    Args:
        port: of the node.
        process: its id.
        queue: SQLAlchemy URL of its queue.
    """

    port: int
    process: int
    queue: str

    @contextmanager
    def opened(self) -> Iterator[Queue]:
        """The node's queue."""
        with closing(Queue(self.queue)) as queue:
            yield queue

    def counts(self) -> Counter[str]:
        """Refusals and repeats so far, by reason."""
        found: Counter[str] = Counter()
        with self.opened() as queue:
            for each in status(queue)["counts"]:
                found[each["what"]] += each["number"]
        return found

    def newest(self, number: int) -> list[dict[str, Any]]:
        """So many of the images that were received last."""
        with self.opened() as queue:
            return rows(queue, number)

    def await_drained(self, seconds: float) -> None:
        """Wait until every image that was received has an end, or so many seconds."""
        with self.opened() as queue:
            awaited(lambda: not status(queue)["received"].get("received"), seconds)

    def is_answered(self, image: Dataset, seconds: float) -> bool:
        """Whether the node accepts an image within so many seconds, and in as many answers it."""
        accepted = awaited(lambda: is_stored(self.port, image), seconds)
        return accepted and awaited(lambda: self.newest(1)[0]["state"] == "answered", seconds)

    @property
    def processes(self) -> list[psutil.Process]:
        """The node's own process and those that answer; sandboxed ones come and go."""
        own = psutil.Process(self.process)
        return [own, *(p for p in own.children() if "spawn_main" in " ".join(p.cmdline()))]

    def memory(self) -> int:
        """Bytes that they hold."""
        return sum(int(each.memory_info().rss) for each in self.processes)

    def handles(self) -> int:
        """File descriptors and threads of the process that listens."""
        own = psutil.Process(self.process)
        return int(own.num_fds() + own.num_threads())


def program(name: str) -> str:
    """Path of a program of Debian's, not of the Python environment's.

    Raises:
        StageError: it is not installed.
    """
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise StageError("not installed", field=name, remedy="apt install orthanc dcmtk")
    return found


def radiographs() -> Iterator[Dataset]:
    """Phantoms as DX objects of 12 bits, `SIDE` pixels a side."""
    spec = SynthesisSpec(studies=PHANTOMS, image_absent=0)
    for case in draw_cases(spec):
        dataset = as_dicom(spec, case, datetime.now())
        picture = Image.fromarray(draw_image(spec, case)[0])
        square = picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        set_pixels(dataset, np.asarray(square))
        yield renamed(dataset)


def renamed(dataset: Dataset, name: str = "") -> Dataset:
    """The same image, changed in place to one of a new patient, or of the patient of a name."""
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        uid = generate_uid(entropy_srcs=[keyword, name] if name else None)
        setattr(dataset, keyword, uid)
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID = dataset.SOPInstanceUID[-16:]
    return dataset


def asked_for(
    port: int,
    title: str = "ARCHIVE",
    called: str = "CXRMM",
    syntaxes: Sequence[str] = (ExplicitVRLittleEndian,),
    **options: Any,
) -> Any:
    """An association with the node, established or not; by default as the archive."""
    entity = AE(title)
    for syntax in syntaxes:
        entity.add_requested_context(DigitalXRayImageStorageForPresentation, syntax)
    return entity.associate("127.0.0.1", port, ae_title=called, **options)


def associated(port: int, **options: Any) -> Any:
    """An association with the node, as `asked_for`, that is established."""
    association = asked_for(port, **options)
    assert association.is_established
    return association


def stored(association: Any, image: Dataset) -> float:
    """Send an image; the time at which the node has accepted it."""
    status = association.send_c_store(image)
    assert status.Status == 0, status
    return time.monotonic()


def status_of(port: int, image: Dataset, **options: Any) -> int | None:
    """Status of a C-STORE; None if the node does not listen, or ends the association instead."""
    try:
        association = associated(port, **options)
        status = association.send_c_store(image).get("Status")
        association.release()
    except (AssertionError, RuntimeError, ValueError):
        return None
    return None if status is None else int(status)


def is_stored(port: int, image: Dataset, **options: Any) -> bool:
    """Whether the node accepts an image."""
    return status_of(port, image, **options) == 0


def files_of(images: list[Dataset], number: int, folder: Path) -> list[str]:
    """Files of so many images, each of a patient of its own."""
    folder.mkdir()
    return [
        file_of(renamed(images[index % len(images)]), folder / f"{index}.dcm")
        for index in range(number)
    ]


def file_of(image: Dataset, path: Path) -> str:
    """Write an image; its path."""
    image.save_as(path, enforce_file_format=True)
    return str(path)


def sending(storescu: str, port: int, files: list[str], *options: str) -> list[str]:
    """What sends files to the node."""
    titles = ("-aet", "ARCHIVE", "-aec", "CXRMM")
    return [storescu, *titles, *options, "127.0.0.1", str(port), *files]


@contextmanager
def orthanc(folder: Path, server: str, port: int = 0) -> Iterator[tuple[int, str]]:
    """DICOM port of an Orthanc, any where none is given, and the address of its REST interface."""
    port, http = port or free_port(), free_port()
    settings = {
        "StorageDirectory": str(folder / "archive"),
        "IndexDirectory": str(folder / "archive"),
        "DicomAet": "ARCHIVE",
        "DicomPort": port,
        "HttpPort": http,
        "RemoteAccessAllowed": False,
        "AuthenticationEnabled": False,
        "DicomAlwaysAllowStore": True,
        "Plugins": [],
    }
    file = folder / "orthanc.json"
    file.write_text(json.dumps(settings), encoding="utf-8")
    with listening([server, str(file)], http):
        yield port, f"http://127.0.0.1:{http}"


@contextmanager
def running_node(
    folder: Path, bundle: Path, archive: int, **changed: Any
) -> Iterator[tuple[int, int]]:
    """Port of a node as of `node_file`, and its process id."""
    port, file = node_file(folder, bundle, archive, **changed)
    with listening(node_command(file), port) as process:
        yield port, process


def node_command(file: Path) -> list[str]:
    """What runs a node."""
    return [sys.executable, "-m", "app.pacs", "run", str(file)]


def node_file(folder: Path, bundle: Path, archive: int, **changed: Any) -> tuple[int, Path]:
    """Port and file of a node whose answers go to an archive.

    Args:
        folder: of the node; made here.
        archive: port of the archive.
        changed: further settings.
    """
    folder.mkdir()
    port, file = free_port(), folder / "node.yaml"
    peer = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive}
    destinations = [{"peer": "archive", "objects": list(OBJECTS)}]
    settings = {
        "port": port,
        "storage": "storage",
        "workers": WORKERS,
        "log": f"sqlite:///{folder / 'log.db'}",
        "peers": [peer],
        "rules": [{"bundle": str(bundle), "destinations": destinations}],
    }
    file.write_text(yaml.safe_dump(settings | changed), encoding="utf-8")
    return port, file


@contextmanager
def listening(command: list[str], port: int) -> Iterator[int]:
    """Process id of a program, from when it listens until the context ends.

    Raises:
        TimeoutError: it does not listen.
    """
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + STARTS
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > until:
                raise TimeoutError(f"{command[0]} does not listen on port {port}")
            time.sleep(0.2)
        yield process.pid
    finally:
        process.terminate()
        process.wait(60)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port() -> int:
    """A port of the loopback that nothing listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def awaited(is_so: Callable[[], bool], seconds: float) -> bool:
    """Whether something is so within some seconds."""
    until = time.monotonic() + seconds
    while not (found := is_so()) and time.monotonic() < until:
        time.sleep(SLOW_LOOK)
    return found
