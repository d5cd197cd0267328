"""Dockerfile and compose.yaml: what they name is there, and nothing runs with more rights than it
needs. Building the images needs a network and a builder, which a test run need not have."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

from app.pacs.settings import NodeSettings
from benchmarks.system.pacs_peers import free_port
from tests.shell import check, check_options

URL = "postgresql+psycopg://cxr_mm@database/cxr_mm"
ROOT = Path(__file__).parent.parent
SERVICES = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
BUILT = {name: ROOT / each["build"] for name, each in SERVICES.items() if "build" in each}
EXAMPLES = ROOT / "docs" / "examples"


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


@pytest.mark.parametrize("name", BUILT)
def test_what_is_mounted_and_copied_is_there(name):
    folder = BUILT[name]
    for source in mounts(SERVICES[name]):
        if source.startswith("./") and source != "./serving":  # which `monitoring adopt` writes
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
    assert settings.log == settings.queue == URL
    assert settings.metrics
    assert f":{settings.metrics.port}/metrics" in SERVICES["node"]["healthcheck"]["test"][-1]
    places = [path for service in SERVICES.values() for path in mounts(service).values()]
    for path in (settings.storage, archive["StorageDirectory"], settings.rules[-1].bundle):
        assert any(Path(path).is_relative_to(place) for place in places)


def test_page_monitoring_and_node_are_asked_for_what_there_is():
    for name in ("page", "monitoring", "node"):
        service = SERVICES[name]
        start = " ".join(service.get("entrypoint", ["cxr-mm"]))
        check_options([*start.split(), *service["command"]])
    for name in ("page", "monitoring"):
        options = SERVICES[name]["command"]
        assert {f"--log={URL}", "--bundle=serving/synthetic/current.json"} <= {*options}
    assert SERVICES["database"]["environment"]["POSTGRES_USER"] in URL


@pytest.mark.parametrize("path", [*EXAMPLES.glob("*.service")], ids=lambda path: path.name)
def test_a_unit_starts_what_there_is_with_no_rights_that_it_does_not_need(path):
    text = path.read_text()
    for line in re.findall(r"^ExecStart(?:Pre)?=/srv/cxr_mm/.venv/bin/(.+)$", text, re.MULTILINE):
        check(shlex.split(line))
    for right in ("NoNewPrivileges=yes", "ProtectSystem=strict", "ProtectHome=yes", "User=cxr"):
        assert f"{right}\n" in text


def test_the_space_starts_here_without_a_network(bundle_folder, tmp_path):
    folder = tmp_path / "space"
    shutil.copytree(EXAMPLES / "space", folder)
    (folder / "bundle").symlink_to(bundle_folder)
    port = str(free_port())
    environment = {**os.environ, "PORT": port, "PYTHONPATH": str(ROOT)}
    environment.pop("SPACE_HOST", None)
    command = [sys.executable, "app.py"]
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE) as started:
        assert started.stdout.readline().endswith(f":{port}/\n".encode())
        started.terminate()
        assert started.wait(60) == 0
    metadata = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert metadata["sdk_version"] == version("gradio")
    assert metadata["app_file"] == "app.py"


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize(("status", "is_ended"), [(200, False), (503, False), (502, True)])
def test_nginx_is_ended_where_it_does_not_reach_the_page_alone(status, is_ended):
    class Nginx(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()

    _, line = SERVICES["proxy"]["healthcheck"]["test"]
    with HTTPServer(("127.0.0.1", 0), Nginx) as server:
        line = line.replace(":8080", f":{server.server_port}").replace("kill 1", "echo ended")
        server.timeout, command = 60, ["sh", "-c", line]
        direct = {**os.environ, "no_proxy": "*"}
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=direct) as process:
            server.handle_request()
            assert (process.communicate(timeout=60)[0] == b"ended\n") == is_ended


def test_the_composition_is_valid():
    program = shutil.which("docker-compose")
    if program is None:
        pytest.skip("docker-compose is not installed")
    subprocess.run(
        [program, "--file", "compose.yaml", "config", "--quiet"],
        cwd=ROOT,
        env={**os.environ, "CXR_MM_DATABASE_PASSWORD": "a", "CXR_MM_LOG_SECRET": "b"},
        check=True,
        capture_output=True,
        timeout=60,
    )
