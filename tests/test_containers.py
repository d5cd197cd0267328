"""Dockerfile and compose.yaml: what they name is there, and nothing runs with more rights than it
needs. Building the images needs a network and a builder, which a test run need not have."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from app.pacs.settings import NodeSettings

ROOT = Path(__file__).parent.parent
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
EXAMPLES = ROOT / "docs" / "examples"


def folder_of(service):
    build = service["build"]
    return ROOT / (build if isinstance(build, str) else build["context"])


def mounts(service):
    return dict(each.split(":")[:2] for each in service["volumes"])


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_has_no_rights_that_it_does_not_need(name):
    service = SERVICES[name]
    assert service["user"] not in ("0", "root", "0:0")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in service["security_opt"]
    assert service["healthcheck"]["test"]
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_what_is_mounted_and_copied_is_there(name):
    folder = folder_of(SERVICES[name])
    for source in mounts(SERVICES[name]):
        if source.startswith("./") and source != "./models":  # which `make repro` writes
            assert (ROOT / source).is_file()
    dockerfile = (folder / "Dockerfile").read_text().replace("\\\n", " ")
    ignored = (folder / ".dockerignore").read_text() if folder == ROOT else ""
    for words in map(shlex.split, re.findall(r"^COPY (?!--from)(.*)$", dockerfile, re.MULTILINE)):
        for source in words[:-1]:
            assert (folder / source).exists()
            assert f"!{source}\n" in ignored
    assert re.search(r"^USER (?!0|root)", dockerfile, re.MULTILINE)


def test_node_and_archive_of_the_composition_know_each_other():
    fields = yaml.safe_load((EXAMPLES / "compose" / "node.yaml").read_text())
    settings = NodeSettings.model_validate(fields)
    archive = yaml.safe_load((EXAMPLES / "compose" / "orthanc.json").read_text())
    (peer,) = settings.peers
    assert (peer.ae_title, peer.port) == (archive["DicomAet"], archive["DicomPort"])
    assert peer.host in SERVICES
    title, host, port = archive["DicomModalities"]["node"]
    assert (title, port) == (settings.ae_title, settings.port)
    assert SERVICES[host] is SERVICES["node"]
    assert settings.metrics
    assert f":{settings.metrics.port}/metrics" in SERVICES["node"]["healthcheck"]["test"][-1]
    places = [path for service in SERVICES.values() for path in mounts(service).values()]
    for path in (settings.storage, archive["StorageDirectory"], settings.rules[-1].bundle):
        assert any(Path(path).is_relative_to(place) for place in places)


def test_the_composition_is_valid():
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    subprocess.run(
        [program, "--file", "compose.yaml", "config", "--quiet"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
