"""Orthanc forwards whatever it stores to the node, and gets answers back: no loop comes of it."""

import json
import subprocess
import time
from contextlib import closing

import httpx
import pytest
from fhir.resources.R4B.bundle import Bundle

from app.pacs.objects.sop_classes import SOP_CLASSES
from benchmarks.system.pacs_peers import free_port
from cxr_mm.core.files import write_json
from cxr_mm.core.paths import bundle_digest
from tests.app.pacs.conftest import dcmtk, orthanc_program
from tests.app.pacs.test_node import Archive, Running, phantoms  # noqa: F401  a fixture

OBJECTS = ["sr", "gsps", "sc", "seg", "pdf"]
FAITHFUL = {
    "n": 40,
    "patients": 40,
    "better_than_chance": True,
    "depends_on_weights": True,
    "modality": "image",
    "gain": {"value": 1.0, "low": 0.5, "high": 1.5},
}
"""Without a method of measured faithfulness there is no segmentation."""
FORWARD = """
function OnStoredInstance(instance, tags, metadata, origin)
    SendToModality(instance, 'node')
end
"""


class Orthanc:
    """Orthanc on ports of the loopback, with an empty storage."""

    def __init__(self, folder, program, node_port, **changed):
        self.port, self.http = free_port(), free_port()
        (folder / "forward.lua").write_text(FORWARD)
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "DicomAet": "ARCHIVE",
            "DicomPort": self.port,
            "HttpPort": self.http,
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomModalities": {"node": ["CXRMM", "127.0.0.1", node_port]},
            "LuaScripts": [str(folder / "forward.lua")],
            "Plugins": [],
        } | changed
        self.user = next(iter(settings.get("RegisteredUsers", {}).items()), None)
        file = folder / "orthanc.json"
        file.write_text(json.dumps(settings))
        self.out = (folder / "orthanc.txt").open("w")
        self.process = subprocess.Popen([program, str(file)], stdout=self.out, stderr=self.out)

    def get(self, path):
        answer = httpx.get(f"http://127.0.0.1:{self.http}{path}", auth=self.user, timeout=10)
        return answer.raise_for_status().json()

    def listens(self):
        until = time.monotonic() + 60
        while time.monotonic() < until:
            try:
                return bool(self.get("/system"))
            except httpx.HTTPError:
                time.sleep(0.3)
        return False

    def close(self):
        self.process.terminate()
        self.process.wait(timeout=30)
        self.out.close()


@pytest.fixture
def pair(tmp_path, bundle_folder):
    program = orthanc_program()
    folder = tmp_path / "orthanc"
    folder.mkdir()
    node = Running(tmp_path, bundle_folder, Archive())
    figures = {"digest": bundle_digest(bundle_folder), "methods": {"grad_cam": FAITHFUL}}
    write_json(tmp_path / "reports" / "synthetic" / "faithfulness.json", figures)
    with closing(Orthanc(folder, program, node.port)) as orthanc:
        node.fields["peers"][0] |= {"port": orthanc.port, "commitment": True}
        node.fields["peers"].append({"name": "records", "fhir": {"folder": "fhir"}})
        node.fields["rules"][0]["destinations"] = [
            {"peer": "archive", "objects": OBJECTS},
            {"peer": "records", "objects": ["fhir"]},
        ]
        node.write(node.fields)
        assert orthanc.listens()
        yield node.start(), orthanc
        node.end()


def test_orthanc_gets_the_answers_of_what_it_forwards_once(pair, phantoms, tmp_path):  # noqa: F811
    node, orthanc = pair
    path = tmp_path / "image.dcm"
    phantoms[3].save_as(path, enforce_file_format=True)
    names = ["-aet", "MODALITY", "-aec", "ARCHIVE", "127.0.0.1", str(orthanc.port)]
    subprocess.run([dcmtk("storescu"), *names, str(path)], check=True, timeout=60)
    until = time.monotonic() + 120
    while len(orthanc.get("/instances")) <= len(OBJECTS) and time.monotonic() < until:
        time.sleep(0.5)
    node.delivering({"committed": len(OBJECTS)})
    node.delivering({"sent": 1}, "records")
    time.sleep(3)  # for a loop to show
    tags = [orthanc.get(f"/instances/{i}/simplified-tags") for i in orthanc.get("/instances")]
    assert sorted(t["SOPClassUID"] for t in tags) == sorted(
        [phantoms[3].SOPClassUID, *(SOP_CLASSES[kind] for kind in OBJECTS)]
    )
    assert len(orthanc.get("/studies")) == len(orthanc.get("/patients")) == 1
    counts = node.settled(1)["counts"]
    assert counts["SOP class or transfer syntax not taken"] >= 1  # once for an association
    assert node.settled(1)["received"] == {"answered": 1}
    (report,) = (tmp_path / "fhir").iterdir()
    Bundle.model_validate_json(report.read_text())
