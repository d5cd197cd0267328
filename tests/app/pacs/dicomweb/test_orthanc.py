"""Orthanc with its DICOMweb plugin: the node fetches what it has, and stores the answers in it."""

import subprocess
import time
from contextlib import closing
from pathlib import Path

import pytest

from app.pacs.objects.sop_classes import SOP_CLASSES
from tests.app.pacs.conftest import dcmtk, orthanc_program
from tests.app.pacs.test_node import Archive, Running, phantoms  # noqa: F401  a fixture
from tests.app.pacs.test_orthanc import Orthanc

PLUGINS = [
    Path(folder) / "libOrthancDicomWeb.so"
    for folder in ("/usr/share/orthanc/plugins", "/usr/lib/orthanc", "/usr/local/share/orthanc")
]


@pytest.fixture
def pair(tmp_path, bundle_folder):
    program = orthanc_program()
    plugin = next((path for path in PLUGINS if path.exists()), None)
    if plugin is None:
        pytest.skip("Orthanc's DICOMweb plugin is not installed")
    folder = tmp_path / "orthanc"
    folder.mkdir()
    token = tmp_path / "secret"
    token.write_text("ada:lovelace")
    token.chmod(0o600)
    users = {"AuthenticationEnabled": True, "RegisteredUsers": {"ada": "lovelace"}}
    node = Running(tmp_path, bundle_folder, Archive())
    started = Orthanc(folder, program, node.port, LuaScripts=[], Plugins=[str(plugin)], **users)
    with closing(started) as orthanc:
        web = {
            "url": f"http://127.0.0.1:{orthanc.http}/dicom-web",
            "sign_in": "basic",
            "secret_file": "secret",
            "poll": {"every_seconds": 0.5, "first_days": 366, "overlap_days": 366},
        }
        node.fields["peers"] = [{"name": "archive", "web": web}]
        node.write(node.fields)
        assert orthanc.listens()
        yield node, orthanc
        node.end()


def send(orthanc, folder, image):
    path = folder / f"{image.SOPInstanceUID}.dcm"
    image.save_as(path, enforce_file_format=True)
    names = ["-aet", "MODALITY", "-aec", "ARCHIVE", "127.0.0.1", str(orthanc.port)]
    subprocess.run([dcmtk("storescu"), *names, str(path)], check=True, timeout=60)


def classes(orthanc, expected, seconds=120):
    """SOP classes in Orthanc, once there are so many."""
    until = time.monotonic() + seconds
    while len(found := orthanc.get("/instances")) < expected and time.monotonic() < until:
        time.sleep(0.5)
    tags = [orthanc.get(f"/instances/{i}/simplified-tags") for i in found]
    return sorted(t["SOPClassUID"] for t in tags)


def test_what_is_in_orthanc_is_answered_there_once(pair, phantoms, tmp_path):  # noqa: F811
    node, orthanc = pair
    send(orthanc, tmp_path, phantoms[0])
    node.start()
    one = [phantoms[0].SOPClassUID, *(SOP_CLASSES[kind] for kind in ("sr", "gsps", "sc"))]
    assert classes(orthanc, 4) == sorted(one)
    node.settled(1)
    assert node.command("send-test").stdout == "archive: DICOMweb answers\n"
    node.end()
    send(orthanc, tmp_path, phantoms[1])
    node.start()
    assert classes(orthanc, 8) == sorted(one * 2)
    time.sleep(3)  # for a loop to show
    assert node.settled(2)["received"] == {"answered": 2}
    assert len(orthanc.get("/instances")) == 8
    assert len(orthanc.get("/studies")) == 2
