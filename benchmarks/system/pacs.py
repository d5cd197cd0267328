"""Part `pacs`: radiographs sent to a node, and its answers back in Orthanc, all on loopback.

The node and Orthanc are processes of their own; the images are synthetic, as large as a detector.
"""

import json
import logging
import multiprocessing
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pydicom
import torch
import yaml
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE
from pynetdicom.sop_class import DigitalXRayImageStorageForPresentation

from app.ui import study_form
from benchmarks.harness.outputs import has_run, paths_of
from benchmarks.harness.parts import Row
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.errors import StageError
from cxr_mm.data.studies import build_study
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import Predictor
from cxr_mm.models.bundle import load_bundle

TASK, SIDE = "synthetic", 2048
ALONE, TOGETHER, RECEIVED = 200, 60, 60
"""Images sent one at a time, all at once, and against DCMTK's `storescp`."""
ROUNDS = 2
"""Times that all are sent at once, between measurements of the bare work."""
CORES = os.cpu_count() or 1
OBJECTS = ("sr", "gsps", "sc")
STARTS, ENDS = 120.0, 600.0
"""Seconds within which a program must listen, and all answers must be back."""
LOOK = 0.01
"""Seconds between two looks into Orthanc."""
PHANTOMS = 10
"""Different images; each is sent under many UIDs."""


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

    def await_count(self, count: int) -> float:
        """The time (`time.monotonic`) at which the archive was seen to hold so many instances.

        Raises:
            TimeoutError: it never does.
        """
        until = time.monotonic() + ENDS
        while time.monotonic() < until:
            if self.count() >= count:
                return time.monotonic()
            time.sleep(LOOK)
        raise TimeoutError(f"{self.count()} of {count} objects are back")


def measure() -> list[Row]:
    """Rows of latency, throughput and the rate of receiving.

    Raises:
        StageError: there is no bundle, or Orthanc or DCMTK is not installed.
    """
    bundle = paths_of(TASK).bundle.resolve()
    if not has_run("fuse", paths_of(TASK)):
        raise StageError("no such folder", field=str(bundle), remedy="Run dvc repro")
    logging.getLogger("pynetdicom").setLevel(logging.WARNING)  # else a line for each message
    programs = {name: _program(name) for name in ("Orthanc", "storescu", "storescp")}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = list(radiographs(folder / "phantoms"))
        with _orthanc(folder, programs["Orthanc"]) as (port, rest):
            with _node(folder / "node", bundle, port) as (node_port, process):
                node = Node(node_port, process, rest)
                rows = list(_alone(node, images))
                files = _files(images, TOGETHER, folder / "together")
                rows += _together(node, files, bundle, programs["storescu"])
            with _node(folder / "receiving", bundle, port) as (node_port, _):
                rows += _receiving(folder, node_port, images, programs)
    return rows


def _program(name: str) -> str:
    """Path of a program of Debian's, not of the Python environment's.

    Raises:
        StageError: it is not installed.
    """
    found = shutil.which(name, path="/usr/sbin:/usr/bin:/usr/local/bin")
    if found is None:
        raise StageError("not installed", field=name, remedy="apt install orthanc dcmtk")
    return found


def radiographs(folder: Path) -> Iterator[Dataset]:
    """Synthetic images as DX objects of 12 bits, `SIDE` pixels a side."""
    study_form.phantoms(folder, PHANTOMS)
    for path in sorted(folder.rglob("images/*.png"))[:PHANTOMS]:
        picture = Image.open(path).convert("L").resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        yield _radiograph(np.asarray(picture, "<u2") * 16)


def _radiograph(pixels: NDArray[np.uint16]) -> Dataset:
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.SOPClassUID = DigitalXRayImageStorageForPresentation
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    fields = {
        "PatientName": "Phantom", "PatientSex": "F", "PatientAge": "063Y", "PatientBirthDate": "",
        "StudyDate": "", "StudyTime": "", "StudyID": "1", "AccessionNumber": "",
        "ReferringPhysicianName": "", "SeriesNumber": 1, "InstanceNumber": 1, "Modality": "DX",
        "BodyPartExamined": "CHEST", "ViewPosition": "PA", "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2", "Rows": SIDE, "Columns": SIDE,
        "BitsAllocated": 16, "BitsStored": 12, "HighBit": 11, "PixelRepresentation": 0,
    }  # fmt: skip
    for name, value in fields.items():
        setattr(dataset, name, value)
    dataset.PixelData = pixels.tobytes()
    return _renamed(dataset)


def _renamed(dataset: Dataset) -> Dataset:
    """The same image as one of a new patient."""
    for keyword in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
        setattr(dataset, keyword, generate_uid())
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    dataset.PatientID = dataset.SOPInstanceUID[-16:]
    return dataset


def _alone(node: Node, images: list[Dataset]) -> Iterator[Row]:
    """From an image that the node has accepted to all of its objects in the archive."""
    seconds = []
    for number in range(ALONE):
        image, before = _renamed(images[number % len(images)]), node.count()
        association = _association(node.port)
        accepted = _stored(association, image)
        seconds.append(node.await_count(before + len(OBJECTS)) - accepted)
        association.release()
    facts = {"task": TASK, "row": f"one at a time, {SIDE} × {SIDE}", "n": ALONE, "seed": 0}
    yield Row(metric="seconds, median", value=round(statistics.median(seconds), 3), **facts)
    slow = round(float(np.quantile(seconds, 0.95)), 3)
    yield Row(metric="seconds, p95", value=slow, must=3, aim=2, ceiling=True, **facts)


def _association(port: int) -> Any:
    entity = AE("ARCHIVE")
    entity.add_requested_context(DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian)
    association = entity.associate("127.0.0.1", port, ae_title="CXRMM")
    assert association.is_established
    return association


def _stored(association: Any, image: Dataset) -> float:
    """Send an image; the time at which the node has accepted it."""
    status = association.send_c_store(image)
    assert status.Status == 0, status
    return time.monotonic()


def _together(node: Node, files: list[str], bundle: Path, send: str) -> Iterator[Row]:
    """Images a second of a full queue, as a share of what decoding, forward pass and Grad-CAM allow
    on the same cores, one process and thread each; and the processor time of either. Measured in
    turn, since others may use the machine, which moves the first figure more than the second.
    """
    bare, sent, worked = [_bare(files, bundle)], 0.0, _processor_seconds(node.process)
    for _ in range(ROUNDS):
        before, started = node.count(), time.monotonic()
        subprocess.run(_sending(send, node.port, files), check=True, stdout=subprocess.DEVNULL)
        sent += node.await_count(before + len(files) * len(OBJECTS)) - started
        files = [_file(_renamed(pydicom.dcmread(file)), Path(file)) for file in files]
        bare.append(_bare(files, bundle))
    number = ROUNDS * len(files)
    worked = (_processor_seconds(node.process) - worked) / number
    row = f"{len(files)} at once, {SIDE} × {SIDE}, {CORES} cores"
    facts = {"task": TASK, "row": row, "n": number, "seed": 0}
    metric = "rate as a share of decode, forward and Grad-CAM"
    share = number / sent / statistics.mean(rate for rate, _ in bare)
    yield Row(metric=metric, value=round(share, 3), must=0.7, aim=0.85, **facts)
    share = statistics.mean(seconds for _, seconds in bare) / worked
    metric = "processor time of decode, forward and Grad-CAM as a share of the node's"
    yield Row(metric=metric, value=round(share, 3), **facts)


def _bare(files: list[str], bundle: Path) -> tuple[float, float]:
    """Images a second, each decoded, answered and explained by Grad-CAM, and nothing else; and the
    processor seconds of one."""
    with multiprocessing.get_context("spawn").Pool(CORES, _load, (bundle,)) as pool:
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


def _load(bundle: Path) -> None:
    keep_freed_memory()
    torch.set_num_threads(1)
    _BARE["predictor"] = Predictor(load_bundle(bundle))


def _explain(file: str) -> float:
    """Work on one image; the processor seconds of that."""
    started, predictor = time.process_time(), _BARE["predictor"]
    bundle = predictor.bundle
    study = build_study(bundle.task, partial(read_radiograph, Path(file)), {}, None, "PA")
    answer = predictor.answer_one(study)
    target = Target(bundle.task.finding_names[0])
    METHODS["grad_cam"].explain(Subject.of(bundle, answer), target, Ask())
    return time.process_time() - started


def _files(images: list[Dataset], number: int, folder: Path) -> list[str]:
    """Files of so many images, each of a patient of its own."""
    folder.mkdir()
    return [
        _file(_renamed(images[index % len(images)]), folder / f"{index}.dcm")
        for index in range(number)
    ]


def _file(image: Dataset, path: Path) -> str:
    image.save_as(path, enforce_file_format=True)
    return str(path)


def _sending(program: str, port: int, files: list[str]) -> list[str]:
    return [program, "-aet", "ARCHIVE", "-aec", "CXRMM", "127.0.0.1", str(port), *files]


def _receiving(
    folder: Path, port: int, images: list[Dataset], programs: dict[str, str]
) -> Iterator[Row]:
    """Images a second that the node takes, answering them meanwhile, against `storescp`."""
    sent, kept = folder / "sent", folder / "kept"
    kept.mkdir()
    files = _files(images, RECEIVED, sent)
    send = programs["storescu"]
    other = _free_port()
    with _listening([programs["storescp"], "-od", str(kept), str(other)], other):
        theirs = _timed([send, "-aec", "ANY", "127.0.0.1", str(other), *files])
    ours = _timed(_sending(send, port, files))
    facts = {"task": TASK, "row": f"{RECEIVED} sent by storescu", "n": RECEIVED, "seed": 0}
    metric = "rate against DCMTK's storescp"
    yield Row(metric=metric, value=round(theirs / ours, 3), must=0.5, aim=0.8, **facts)


def _timed(command: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


@contextmanager
def _orthanc(folder: Path, program: str) -> Iterator[tuple[int, str]]:
    """DICOM port of a new Orthanc, and the address of its REST interface."""
    port, http = _free_port(), _free_port()
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
    with _listening([program, str(file)], http):
        yield port, f"http://127.0.0.1:{http}"


@contextmanager
def _node(folder: Path, bundle: Path, archive: int) -> Iterator[tuple[int, int]]:
    """Port of a node whose answers go to an archive, and its process id."""
    folder.mkdir()
    port, file = _free_port(), folder / "node.yaml"
    peer = {"name": "archive", "ae_title": "ARCHIVE", "host": "127.0.0.1", "port": archive}
    destinations = [{"peer": "archive", "objects": list(OBJECTS)}]
    settings = {
        "port": port,
        "storage": "storage",
        "log": f"sqlite:///{folder / 'log.db'}",
        "peers": [peer],
        "rules": [{"bundle": str(bundle), "destinations": destinations}],
    }
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    with _listening([sys.executable, "-m", "app.pacs", "run", str(file)], port) as process:
        yield port, process


@contextmanager
def _listening(command: list[str], port: int) -> Iterator[int]:
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


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
