"""A reader's walk: from the modality through the archive and the node to the Inbox, feedback,
monitoring and the next model."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from contextlib import closing, contextmanager

import httpx
import pytest
from gradio_client import Client, handle_file
from playwright.sync_api import expect
from pydicom import dcmread

from app.inbox import Wanted
from app.pacs.commands import phantom
from app.pacs.objects.sop_classes import SOP_CLASSES
from app.pacs.watch.inbox import QueueInbox
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import TaskPaths, bundle_digest
from cxr_mm.core.prediction import percent
from cxr_mm.models.bundle import load_bundle, save_bundle
from cxr_mm.models.registry import read_pointer
from cxr_mm.prediction_log import open_log
from monitoring.retraining.promotion import adopt, pointer_file
from tests.app.pacs.conftest import dcmtk, orthanc_program
from tests.app.pacs.test_node import Archive, Running
from tests.app.pacs.test_orthanc import Orthanc
from tests.browser.conftest import browser, driver, window  # noqa: F401  fixtures

OBJECTS = ["sr", "gsps", "sc"]
PROBABILITY = re.compile(r'"(consolidation|effusion)".*?Probability.*?([\d.]+)"', re.DOTALL)


class Hospital:
    """An archive, the node that it forwards to, and a project whose pointer names the model."""

    def __init__(self, project, archive, node):
        self.project, self.archive, self.node = project, archive, node
        self.log, self.sent = node.fields["log"], []

    def send(self, *files):
        """From the modality to the archive, until all that is known of them is there."""
        self.sent += files
        names = ["-aet", "MODALITY", "-aec", "ARCHIVE", "127.0.0.1", str(self.archive.port)]
        subprocess.run([dcmtk("storescu"), *names, *map(str, files)], check=True, timeout=60)
        self.node.settled(len(self.sent))

    def reports(self):
        """Digest of the model and probabilities of each SR in the archive, by study."""
        found = {}
        for each in self.archive.get("/instances"):
            tags = self.archive.get(f"/instances/{each}/simplified-tags")
            if tags["SOPClassUID"] == SOP_CLASSES["sr"]:
                data = httpx.get(f"http://127.0.0.1:{self.archive.http}/instances/{each}/file")
                file = self.node.folder / "sr.dcm"
                file.write_bytes(data.content)
                text = subprocess.run(
                    [dcmtk("dsrdump"), "+Pl", str(file)], capture_output=True, text=True, check=True
                ).stdout
                probabilities = {name: float(value) for name, value in PROBABILITY.findall(text)}
                digest = dcmread(file).DeviceSerialNumber
                found[tags["StudyInstanceUID"]] = (digest, probabilities)
        return found

    def promote_another(self):
        """Point to a model of another digest, as a promotion does; gives the digest."""
        path = pointer_file("synthetic", self.project)
        current = read_pointer(path)
        newer = load_bundle(path.parent / current.folder / "bundle")
        newer.trained_on["again"] = 1
        save_bundle(newer, path.parent / "versions" / "again" / "bundle")
        digest = bundle_digest(path.parent / "versions" / "again" / "bundle")
        changed = {"folder": "versions/again", "digest": digest}
        write_json(path, current.model_copy(update=changed).model_dump(mode="json"))
        return digest

    @contextmanager
    def page(self):
        """A client of the page beside the node."""
        port = free_port()
        words = ["--bundle", pointer_file("synthetic", self.project), "--log", self.log]
        words += ["--node", self.node.file, "--port", port]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(["", *sys.path])}
        started = subprocess.Popen(
            [sys.executable, "-m", "app", *map(str, words)],
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        try:
            assert f":{port}" in started.stdout.readline()
            with closing(Client(_when_ready(port), verbose=False, ssl_verify=False)) as client:
                yield client
        finally:
            started.terminate()
            started.wait(timeout=60)
            started.stdout.close()


def _when_ready(port):
    address, until = f"http://127.0.0.1:{port}", time.monotonic() + 60
    while time.monotonic() < until:
        try:
            httpx.get(f"{address}/healthz", timeout=5)
            break
        except httpx.HTTPError:
            time.sleep(0.2)
    return address


@pytest.fixture(scope="module")
def hospital(folds_project, tmp_path_factory):
    program = orthanc_program()
    root = tmp_path_factory.mktemp("walk")
    project = root / "project"
    shutil.copytree(folds_project, project)
    adopt(TaskPaths("synthetic", project).bundle, "A. Reader", project)
    (root / "orthanc").mkdir()
    pointer = pointer_file("synthetic", project)
    node = Running(root, pointer, Archive(), retention={"file_hours": 1})
    with closing(Orthanc(root / "orthanc", program, node.port)) as archive:
        node.fields["peers"][0]["port"] = archive.port
        node.fields["rules"][0]["destinations"] = [{"peer": "archive", "objects": OBJECTS}]
        node.write(node.fields)
        assert archive.listens()
        node.start()
        yield Hospital(project, archive, node)
        node.end()


def read_in_the_inbox(window, url, row):  # noqa: F811
    """Open the first image of the Inbox as a reader does: its answer is there, without typing."""
    window.goto(url)
    window.get_by_role("tab", name="Inbox").click()
    expect(window.locator("#inbox tbody tr").first).to_contain_text(row.uid[-24:], timeout=60_000)
    window.get_by_label("Image", exact=True).click()
    window.get_by_role("option", name=f"{row.number}: ").click()
    window.get_by_role("button", name="Open in the reading view").click()
    for found in row.findings:
        expect(window.locator("#answer")).to_contain_text(
            percent(found["probability"]), timeout=60_000
        )


def test_the_walk(hospital, window, tmp_path):  # noqa: F811
    phantom(tmp_path / "phantoms", studies=8, seed=11)
    *first, last = sorted((tmp_path / "phantoms").glob("*.dcm"))
    hospital.send(*first)
    before = hospital.reports()
    serving = bundle_digest(TaskPaths("synthetic", hospital.project).bundle)
    assert {digest for digest, _ in before.values()} == {serving}
    assert len(hospital.archive.get("/instances")) == len(first) * (1 + len(OBJECTS))

    with QueueInbox(hospital.node.file) as inbox:
        rows = inbox.look("synthetic", Wanted()).rows
        study_id, image = inbox.image(rows[0].number)
    studies = {str(dcmread(f).SOPInstanceUID): str(dcmread(f).StudyInstanceUID) for f in first}
    assert [row.suspicion for row in rows] == sorted((r.suspicion for r in rows), reverse=True)
    _, probabilities = before[studies[rows[0].uid]]
    for found in rows[0].findings:
        assert probabilities[found["finding"]] == pytest.approx(found["probability"], abs=1e-12)

    with hospital.page() as client:
        read_in_the_inbox(window, client.src, rows[0])
        header = dcmread(image)
        typed = {
            "clinical": {"age": header.PatientAge[:3], "sex": header.PatientSex},
            "view": header.ViewPosition,
            "note": "",
            "study_id": study_id,
        }
        read = client.predict(image=handle_file(str(image)), **typed, api_name="/predict")
        labels = {
            each["finding"]: "absent" if each["positive"] else "present"
            for each in read["findings"]
        }
        client.predict(
            prediction=read, verdict="disagree", labels=labels, comment="", api_name="/feedback"
        )
    for found in read["findings"]:
        assert probabilities[found["finding"]] == pytest.approx(found["probability"], abs=1e-6)
    with open_log(hospital.log) as log:
        records = log.read_window("synthetic")
        marked = {outcome.study_hash for outcome in log.read_outcomes()}
    assert [record.source for record in records] == ["pacs"] * len(first)
    assert marked == {log.hash_id(study_id)}

    words = ["--source", "pacs", "--log", hospital.log, "--out", tmp_path / "report"]
    words += ["--bundle", pointer_file("synthetic", hospital.project)]
    done = subprocess.run(
        [sys.executable, "-m", "monitoring", "report", *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"{len(first)} studies" in done.stdout, done.stderr
    verdict = json.loads((tmp_path / "report" / "verdict.json").read_text())
    assert (verdict["n"], verdict["n_labelled"]) == (len(first), 1)
    assert "Studies of the source pacs alone" in (tmp_path / "report" / "summary.html").read_text()

    promoted = hospital.promote_another()
    assert promoted != serving
    hospital.send(last)
    after = hospital.reports()
    assert after.keys() - before.keys() == {str(dcmread(last).StudyInstanceUID)}
    assert {after[study][0] for study in after.keys() - before.keys()} == {promoted}
