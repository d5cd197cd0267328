"""The image of Dockerfile, built and run as compose.yaml runs it: CXR_MM_BUILD_IMAGES=1.

Building takes minutes and a registry of images, which a run of the tests need not have.
CXR_MM_BUILD_OPTIONS are the builder's, where base image or packages come from elsewhere.
"""

import json
import os
import shutil
import subprocess
import time

import httpx
import pytest
import yaml

from benchmarks.system.pacs_peers import free_port
from monitoring.retraining.promotion import adopt
from tests.test_containers import EXAMPLES, ROOT, SERVICES

LOG = "sqlite:////var/lib/cxr_mm/predictions.db"
STATE = "/var/lib/cxr_mm"
PASSWORD = "correct horse battery"
pytestmark = pytest.mark.skipif(
    os.environ.get("CXR_MM_BUILD_IMAGES") != "1",
    reason="CXR_MM_BUILD_IMAGES=1 builds and runs the image of Dockerfile",
)


def ran(*words, status=0, **options):
    """What a command leaves on stdout; it ends with this status."""
    done = subprocess.run(
        [*map(str, words)], capture_output=True, text=True, check=False, timeout=1800, **options
    )
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def engine():
    """`docker` or `podman`: whichever works here and has built the image."""
    for name in ("docker", "podman"):
        if (
            shutil.which(name)
            and not subprocess.run([name, "info"], capture_output=True).returncode
        ):
            options = os.environ.get("CXR_MM_BUILD_OPTIONS", "")
            ran("make", "images", f"BUILDER={name}", f"BUILD_OPTIONS={options}", cwd=ROOT)
            return name
    return pytest.skip("neither docker nor podman works here")


@pytest.fixture(scope="module")
def confined(engine, folds_project, tmp_path_factory):
    """Words that run a service of compose.yaml with the rights and mounts that it has there, on a
    state that is removed at the end."""
    project = tmp_path_factory.mktemp("host")
    shutil.copytree(folds_project / "models", project / "models")
    adopt(project / "models" / "synthetic" / "bundle", "A. Reader", project)
    node = yaml.safe_load((EXAMPLES / "compose" / "node.yaml").read_text())
    (project / "node.yaml").write_text(yaml.safe_dump({**node, "log": LOG, "queue": LOG}))
    volume = f"cxr-mm-test-{os.getpid()}"

    def words(name, *more):
        service = SERVICES[name]
        assert service["read_only"]
        return [
            *(engine, "run", "--network=host", "--read-only", "--user", service["user"]),
            *(f"--cap-drop={each}" for each in service["cap_drop"]),
            *(f"--security-opt={each}" for each in service["security_opt"]),
            *(f"--tmpfs={each}" for each in service["tmpfs"]),
            *(f"--env=CXR_MM_LOG_SECRET={PASSWORD}", f"--volume={volume}:{STATE}"),
            f"--volume={project / 'serving'}:{STATE}/serving:ro",
            f"--volume={project / 'node.yaml'}:/etc/cxr_mm/node.yaml:ro",
            *more,
        ]

    yield words
    ran(engine, "volume", "rm", "--force", volume)


def once(confined, name, entrypoint, *arguments, **options):
    """What a command in a container of a service prints; the container is removed."""
    first, *others = entrypoint.split()
    words = confined(name, "--rm", "--interactive", f"--entrypoint={first}", "cxr-mm")
    return ran(*words, *others, *arguments, **options)


@pytest.fixture(scope="module")
def page(engine, confined):
    """Address of the page, run as in compose.yaml on another log and port."""
    once(confined, "page", "python -m app.security.auth users.txt ada --stdin", input=PASSWORD)
    service, port = SERVICES["page"], free_port()
    first, *others = service["entrypoint"]
    command = [f"--log={LOG}" if o.startswith("--log") else o for o in service["command"]]
    words = confined("page", "--detach", f"--entrypoint={first}", "cxr-mm", *others)
    container = ran(*words, *command, f"--port={port}").strip()
    address = f"http://localhost:{port}"
    try:
        wait_for(f"{address}/healthz", engine, container)
        yield address
    finally:
        ran(engine, "rm", "--force", container)


def wait_for(url, engine, container):
    for _ in range(120):
        try:
            return httpx.get(url).raise_for_status()
        except httpx.HTTPError:
            time.sleep(1)
    subprocess.run([engine, "logs", container], check=True)
    raise AssertionError(f"{url} does not answer")


def test_it_runs_without_rights_on_a_file_system_that_it_cannot_write(confined):
    status = once(confined, "page", "cat /proc/self/status")
    assert "Uid:\t10001\t10001\t10001\t10001" in status
    assert "CapEff:\t0000000000000000" in status
    assert "NoNewPrivs:\t1" in status
    once(confined, "page", "touch /opt/cxr_mm/x", status=1)
    once(confined, "page", f"touch {STATE}/x")


def test_the_page_answers_who_signs_in_and_monitoring_reads_what_it_logged(
    confined, page, tmp_path
):
    assert httpx.get(f"{page}/healthz").json()["log_writable"] is True
    assert httpx.get(f"{page}/v1/model").status_code == 401
    once(confined, "page", "cxr-mm pacs phantom demo --studies 1")
    image = once(confined, "page", "sh -c", "base64 --wrap=0 demo/*.dcm").strip()
    study = {"image": image, "clinical": {"age": 63}, "study_id": "s1"}
    answer = httpx.post(f"{page}/v1/predict", json=study, auth=("ada", PASSWORD), timeout=60)
    found = answer.raise_for_status().json()
    assert found["modalities"] == ["image", "tabular"]
    assert all(0 <= each["probability"] <= 1 for each in found["findings"])
    report = ["report", "--bundle=serving/synthetic/current.json", f"--log={LOG}"]
    too_few = 3
    text = once(confined, "monitoring", "python -m monitoring", *report, status=too_few)
    assert "1 study" in text
    verified = once(confined, "monitoring", "python -m monitoring", "verify", f"--log={LOG}")
    assert "predictions:1:" in verified


def test_the_nodes_file_is_checked_and_its_queue_read(confined):
    checked = once(confined, "node", "cxr-mm pacs check-config /etc/cxr_mm/node.yaml")
    assert "CXRMM on 0.0.0.0 port 11112" in checked
    state = json.loads(once(confined, "node", "cxr-mm pacs status /etc/cxr_mm/node.yaml"))
    assert state["received"] == {}
