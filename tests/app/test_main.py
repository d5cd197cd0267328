"""Start: refuses what it must with one clear line and exit code 2, and ends cleanly."""

import shutil
import signal
import socket
import subprocess
import sys
import time
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from app import __main__ as main

# Gradio leaves an event loop behind where a page is built and never served.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning")


@pytest.fixture(autouse=True)
def handlers():
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def refused(capsys, bundle, **options):
    with pytest.raises(SystemExit) as stop:
        main.serve(bundle=[bundle], **options)
    lines = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2
    lines = [line for line in lines if not line.startswith("loading ")]
    assert len(lines) == 1
    return lines[0]


def test_a_bundle_with_one_changed_byte_is_refused(bundle_folder, tmp_path, capsys):
    copy = tmp_path / "bundle"
    shutil.copytree(bundle_folder, copy)
    weights = copy / "fusion.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    assert "fusion.safetensors was changed" in refused(capsys, bundle=copy, no_log=True)


def test_another_host_is_refused_before_anything_is_loaded(tmp_path, capsys):
    line = refused(capsys, bundle=tmp_path, host="0.0.0.0", no_log=True)
    assert "sign in" in line
    assert "--users" in line


def test_a_users_file_that_is_missing_is_refused(bundle_folder, tmp_path, capsys):
    line = refused(capsys, bundle=bundle_folder, no_log=True, users=tmp_path / "users.txt")
    assert "python -m app.security.auth" in line


def test_a_log_that_is_no_url_is_refused(bundle_folder, capsys):
    assert "database URL" in refused(capsys, bundle=bundle_folder, log="nonsense")


def test_examples_without_a_manifest_are_refused(bundle_folder, tmp_path, capsys):
    line = refused(capsys, bundle=bundle_folder, no_log=True, examples=tmp_path)
    assert "manifest.csv" in line


def test_a_folder_that_is_no_bundle_is_refused(tmp_path, capsys):
    assert "bundle.json" in refused(capsys, bundle=tmp_path, no_log=True)


def test_a_port_in_use_is_refused(bundle_folder, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "--port" in refused(capsys, bundle=bundle_folder, no_log=True, port=port)


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as found:
        return found.getsockname()[1]


def test_a_signal_ends_it_cleanly_though_a_page_is_open(bundle_folder, tmp_path):
    port = free_port()
    command = [sys.executable, "-m", "app", "--no-log", "--port", str(port), "--bundle"]
    environment = {"TMPDIR": str(tmp_path), "PATH": "", "OMP_NUM_THREADS": "1"}
    started = subprocess.Popen(
        [*command, str(bundle_folder)],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        with opened(f"http://127.0.0.1:{port}/gradio_api/heartbeat/x", started) as stream:
            assert b"ALIVE" in stream.readline()
            assert list(tmp_path.glob("cxr-mm-app-*"))
            started.send_signal(signal.SIGTERM)
            result, errors = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 0
    assert f"http://127.0.0.1:{port}/" in result
    assert all(line.startswith("loading ") for line in errors.splitlines())
    assert not list(tmp_path.glob("cxr-mm-app-*"))


def opened(url, process, seconds=120):
    """The answer, once the server is there to give it."""
    until = time.monotonic() + seconds
    while True:
        try:
            return urlopen(url, timeout=20)
        except URLError:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < until
            time.sleep(0.2)
