"""The node as one process: in by C-STORE, out by C-STORE, killed at any moment and ended by a
signal."""

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager

import numpy as np
import psutil
import pytest
import yaml
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, evt

from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.queue import Queue
from app.pacs.queue.tables import DELIVERED
from app.pacs.queue.upkeep import status
from benchmarks.system.pacs_peers import free_port
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise
from cxr_mm.prediction_log import open_log
from tests.app.pacs.conftest import dcmtk, node_fields, radiograph, stored


class Archive:
    """An archive that counts what it is sent, and that can be away."""

    def __init__(self):
        self.port, self.server = free_port(), None
        self.got = []
        self.answers = []

    def open(self):
        entity = AE("ARCHIVE")
        entity.add_supported_context("1.2.840.10008.1.1")
        for each in SOP_CLASSES.values():
            entity.add_supported_context(each, ExplicitVRLittleEndian)
        handlers = [(evt.EVT_C_STORE, self._store)]
        self.server = entity.start_server(
            ("127.0.0.1", self.port), block=False, evt_handlers=handlers
        )

    def _store(self, event):
        if self.answers:
            return self.answers.pop(0)
        dataset = event.dataset
        dataset.file_meta = event.file_meta
        self.got.append(dataset)
        return 0

    @property
    def uids(self):
        return [d.SOPInstanceUID for d in self.got]

    def close(self):
        if self.server:
            self.server.shutdown()
            self.server = None


@pytest.fixture
def archive():
    created = Archive()
    created.open()
    yield created
    created.close()


class Running:
    """A node in a process of its own."""

    def __init__(self, folder, bundle, archive, **changed):
        fields = node_fields(folder, port=free_port())
        fields["peers"][0]["port"] = archive.port
        fields["rules"][0] |= {"bundle": str(bundle)}
        fields |= {"workers": 1, "log": f"sqlite:///{folder / 'log.db'}"} | changed
        self.file, self.fields = folder / "node.yaml", fields
        self.port, self.folder, self.process = fields["port"], folder, None
        self.write(fields)

        self.seen = Counter()

    def write(self, fields):
        self.file.write_text(yaml.safe_dump(fields))

    def start(self):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
        with (self.folder / "out.txt").open("a") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "app.pacs", "run", str(self.file)],
                stdout=subprocess.PIPE,
                stderr=out,
                text=True,
                env=environment,
                cwd=self.folder,
            )
        line = self.process.stdout.readline()
        assert "listens on" in line, (self.folder / "out.txt").read_text()
        return self

    def command(self, *words):
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
        return subprocess.run(
            [sys.executable, "-m", "app.pacs", words[0], str(self.file), *words[1:]],
            capture_output=True,
            text=True,
            env=environment,
            check=False,
            timeout=120,
        )

    def end(self, number=signal.SIGTERM):
        if self.process is None or self.process.poll() is not None:
            return None
        self.process.send_signal(number)
        code = self.process.wait(timeout=60)
        self.process.stdout.close()
        return code

    @contextmanager
    def queue(self):
        opened = Queue(f"sqlite:///{self.folder / 'node' / 'queue.db'}")
        try:
            yield opened
        finally:
            opened.close()

    def forget(self):
        """Count what comes from now on alone."""
        self.seen = self._counted()

    def delivering(self, expected, to="archive", seconds=120):
        """Wait until the deliveries to a peer are in these states."""
        until = time.monotonic() + seconds
        found = None
        while found != expected:
            assert time.monotonic() < until, found
            found = self._new().get(to)
            time.sleep(0.2)

    def settled(self, images, seconds=180):
        """Wait until so many images are ended and all is delivered; gives what there is by state:
        of `received`, of each destination, and of `counts`."""
        until = time.monotonic() + seconds
        while True:
            found = self._new()
            states = found.get("received", {})
            ended = sum(states.values()) == images and "received" not in states
            deliveries = [found[name] for name in found.keys() - {"received", "counts"}]
            if ended and all(set(each) <= {*DELIVERED} for each in deliveries):
                return found
            assert time.monotonic() < until, (found, (self.folder / "out.txt").read_text())
            time.sleep(0.2)

    def _new(self):
        found = {}
        for (of, state), number in (self._counted() - self.seen).items():
            found.setdefault(of, {})[state] = number
        return found

    def _counted(self):
        with self.queue() as queue:
            found = status(queue)
        counts = {each["what"]: each["number"] for each in found["counts"]}
        states = {"received": found["received"], "counts": counts, **found["destinations"]}
        return Counter({(of, k): n for of, each in states.items() for k, n in each.items()})


@pytest.fixture
def running(tmp_path, archive, bundle_folder):
    made = []

    def make(**changed):
        made.append(Running(tmp_path, bundle_folder, archive, **changed))
        return made[-1]

    yield make
    for each in made:
        each.end(signal.SIGKILL)


def shared(tmp_path_factory, bundle, **changed):
    """A node that runs for several tests."""
    kept = Archive()
    kept.open()
    node = Running(tmp_path_factory.mktemp("node"), bundle, kept, **changed).start()
    try:
        yield node, kept
        assert node.end() == 0
        assert "Phantom" not in (node.folder / "out.txt").read_text()
    finally:
        node.end(signal.SIGKILL)
        kept.close()


@pytest.fixture(scope="module")
def patient_pair(tmp_path_factory, bundle_folder):
    limits = {"shortest_pause": 0.1, "longest_pause": 1.0}
    yield from shared(tmp_path_factory, bundle_folder, limits=limits)


@pytest.fixture(scope="module")
def strict_pair(tmp_path_factory, bundle_folder):
    limits = {"shortest_pause": 0.1, "longest_pause": 0.1, "send_attempts": 2}
    kept = {"file_hours": 1}
    yield from shared(tmp_path_factory, bundle_folder, limits=limits, retention=kept)


def anew(pair):
    node, archive = pair
    if archive.server is None:
        archive.open()
    archive.got.clear()
    node.forget()
    return node, archive


@pytest.fixture
def patient(patient_pair):
    """A node that tries for long, and its archive; both count from now on."""
    return anew(patient_pair)


@pytest.fixture
def strict(strict_pair):
    """A node that tries twice and keeps files for an hour, and its archive, likewise."""
    return anew(strict_pair)


@pytest.fixture(scope="module")
def phantoms(tmp_path_factory):
    """Phantoms as DICOM data sets, of which the model has seen none."""
    folder = synthesise(tmp_path_factory.mktemp("phantoms"), SynthesisSpec(studies=24, seed=7), 1)
    images = [Image.open(path).convert("L") for path in sorted(folder.rglob("*.png"))]
    return [
        radiograph(f"1.2.826.0.1.{n}", seed=n, pixels=np.asarray(image, np.uint16) * 16)
        for n, image in enumerate(images)
    ]


def test_an_image_goes_in_and_three_objects_come_out(patient, phantoms, tmp_path):
    node, archive = patient
    path = tmp_path / "image.dcm"
    phantoms[0].save_as(path, enforce_file_format=True)
    names = ["-aet", "ARCHIVE", "-aec", "CXRMM", "127.0.0.1", str(node.port)]
    subprocess.run([dcmtk("storescu"), *names, str(path)], check=True, timeout=60)
    node.settled(1)
    assert {d.SOPClassUID for d in archive.got} == {SOP_CLASSES[k] for k in ("sr", "gsps", "sc")}
    assert {d.StudyInstanceUID for d in archive.got} == {phantoms[0].StudyInstanceUID}
    assert {d.PatientID for d in archive.got} == {"P0"}
    with open_log(f"sqlite:///{node.folder / 'log.db'}") as log:
        (record,) = log.read_window("synthetic")
        assert record.study_hash == log.hash_id(phantoms[0].SOPInstanceUID)
        assert record.patient_hash == log.hash_id("P0", "patient")
    assert record.source == "pacs"
    assert record.view == "PA"
    assert record.clinical["age"] == 63
    until = time.monotonic() + 30
    while list((node.folder / "node").rglob("*.dcm")) and time.monotonic() < until:
        time.sleep(0.2)
    assert list((node.folder / "node").rglob("*.dcm")) == []


def test_what_is_refused_is_said_in_a_report(patient, phantoms):
    node, archive = patient
    lateral = radiograph("1.2.9", pixels=phantoms[0].pixel_array, ViewPosition="LL")
    knee = radiograph("1.2.10", pixels=phantoms[0].pixel_array, BodyPartExamined="KNEE")
    noise = radiograph("1.2.11", side=400)
    assert stored(node.port, lateral, knee, noise) == [0, 0, 0]
    found = node.settled(3)
    assert found["received"] == {"not_analysed": 3}
    assert found["counts"] == {
        "not analysed: by the rules": 2,
        "not analysed: unreadable or rejected image": 1,
    }
    texts = [d.to_json() for d in archive.got]
    assert len(texts) == 3
    for words in ("lateral view (LL)", "body part is not the chest"):
        assert sum(words in text for text in texts) == 1
    assert {d.SOPClassUID for d in archive.got} == {SOP_CLASSES["sr"]}


def test_a_destination_that_is_away_gets_all_once_it_is_back(patient, phantoms):
    node, archive = patient
    archive.close()
    stored(node.port, *phantoms[1:3])
    node.delivering({"waiting": 6})
    time.sleep(2)
    archive.open()
    node.settled(2)
    assert len(archive.uids) == len(set(archive.uids)) == 6


def test_what_is_refused_for_ever_is_dead_until_retried(strict, phantoms):
    node, archive = strict
    archive.answers = [0xA700] * 6
    stored(node.port, phantoms[0])
    node.delivering({"dead": 3})
    assert "the destination answered 0xa700" in (node.folder / "out.txt").read_text()
    assert node.command("retry").stdout == "3 tried again\n"
    node.settled(1)
    assert len(archive.uids) == 3


def test_a_node_killed_at_any_moment_loses_and_doubles_nothing(running, archive, phantoms):
    node, draw = running(), random.Random(5)
    images = phantoms[:12]
    waiting = [*images, *draw.sample(images, 4)]
    draw.shuffle(waiting)
    accepted = []
    for moment in (0.3, 3.0, None):
        node.start()
        if moment is not None:
            killer = threading.Timer(moment, node.end, [signal.SIGKILL])
            killer.start()
        while waiting:
            try:
                (answer,) = stored(node.port, waiting[0])
            except AssertionError:
                answer = None
            if answer != 0:
                break
            accepted.append(waiting.pop(0).SOPInstanceUID)
        if moment is not None:
            killer.join()
            node.process.wait()
    for image in waiting:
        assert stored(node.port, image) == [0]
    node.settled(12)
    unique = set(archive.uids)
    assert len(unique) == 36
    by_source = {}
    for each in archive.got:
        by_source.setdefault(each.StudyInstanceUID, set()).add(each.SOPInstanceUID)
    assert {len(uids) for uids in by_source.values()} == {3}
    with open_log(f"sqlite:///{node.folder / 'log.db'}") as log:
        assert len(log.read_window("synthetic")) == 12


def test_two_nodes_never_share_a_storage(patient):
    node, _ = patient
    again = node.command("run")
    assert again.returncode == 2
    assert "another node works here" in again.stderr
    queue = f"sqlite:///{node.folder / 'node' / 'queue.db'}"
    node.write(node.fields | {"storage": str(node.folder / "other"), "queue": queue})
    beside = node.command("run")
    assert beside.returncode == 2
    assert "another node works on this queue" in beside.stderr


def test_a_process_that_dies_is_started_again_and_its_image_answered(patient, phantoms):
    node, _ = patient
    assert stored(node.port, phantoms[3]) == [0]
    for child in psutil.Process(node.process.pid).children():
        if "spawn_main" in " ".join(child.cmdline()):
            child.kill()
    node.settled(1)
    assert "worker 1 has ended (-9) and is started again" in (node.folder / "out.txt").read_text()


def test_the_commands_answer(strict, phantoms):
    node, archive = strict
    stored(node.port, phantoms[1])
    node.settled(1)
    with node.queue() as queue:
        answered = status(queue)["received"]["answered"]
    assert f'"answered": {answered}' in node.command("status").stdout
    assert '"deliveries": {"sent": 3}' in node.command("queue").stdout
    replayed = node.command("replay", "--since", "2026-01-01T00:00+00:00").stdout
    assert replayed.startswith(f"{answered} ")
    node.settled(1)
    assert len(archive.uids) == 3
    sent = node.command("send-test")
    assert (sent.returncode, sent.stdout) == (0, "archive: echo answered, takes what it is sent\n")
    assert "1 peers, 1 rules, no TLS" in node.command("check-config").stdout
    wrong = node.command("replay", "--since", "yesterday")
    assert (wrong.returncode, "no moment with a UTC offset" in wrong.stderr) == (2, True)
    archive.close()
    assert node.command("send-test").returncode == 1
