"""Processes: each has its port, one that ends is started again, and one signal ends them all."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from app.settings import Settings
from cxr_mm.core.errors import ParamsError

SERVE = """
import sys, time
from pathlib import Path
from app.processes import serve_all
from app.settings import Settings
from cxr_mm.core.errors import LogError

def serve(settings, shared):
    import os
    folder = Path(sys.argv[1])
    if (folder.parent / "broken").exists():
        raise LogError("it is broken")
    (folder / f"{settings.port} {os.getpid()} {shared.key.hex()}").touch()
    time.sleep(60)

if __name__ == "__main__":
    serve_all(Settings(bundles=(), port=7000, processes=2), serve)
"""


class Started:
    """The processes of a server that only says who it is."""

    def __init__(self, folder):
        script = folder / "script.py"
        script.write_text(SERVE)
        self.folder = folder / "said"
        self.folder.mkdir()
        here = Path(__file__).parents[2]
        self.process = subprocess.Popen(
            [sys.executable, str(script), str(self.folder)],
            env={**os.environ, "PYTHONPATH": str(here), "TMPDIR": str(folder)},
            stderr=subprocess.PIPE,
            text=True,
        )

    def said(self, count):
        """Port, process and key of each that has begun, once there are so many."""
        until = time.monotonic() + 60
        while len(found := list(self.folder.iterdir())) < count:
            assert time.monotonic() < until
            assert self.process.poll() is None
            time.sleep(0.02)
        return [(int(port), int(pid), key) for port, pid, key in (f.name.split() for f in found)]


@pytest.fixture
def started(tmp_path):
    started = Started(tmp_path)
    yield started
    started.process.kill()
    started.process.communicate()


def alive(pid):
    return Path(f"/proc/{pid}").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_one_that_ends_is_started_again_and_a_signal_ends_them_all(started, tmp_path):
    first = started.said(2)
    assert {port for port, _, _ in first} == {7000, 7001}
    port, lost, _ = first[0]
    os.kill(lost, signal.SIGKILL)
    (new,) = set(started.said(3)) - set(first)
    assert new[0] == port
    assert len({key for _, _, key in [*first, new]}) == 1
    started.process.send_signal(signal.SIGTERM)
    _, errors = started.process.communicate(timeout=60)
    assert started.process.returncode == 0
    assert errors.splitlines() == [
        f"The process on port {port} has ended (-9) and is started again"
    ]
    assert not any(alive(pid) for _, pid, _ in [*first, new])
    assert not list(tmp_path.glob("cxr-mm-sessions-*"))


def test_one_that_cannot_start_ends_them_all_with_its_reason(started):
    started.said(2)
    (started.folder.parent / "broken").touch()
    os.kill(started.said(2)[0][1], signal.SIGKILL)
    _, errors = started.process.communicate(timeout=60)
    assert started.process.returncode == 2
    assert errors.splitlines()[-1] == "error: it is broken."


def test_ports_that_do_not_exist_are_refused():
    with pytest.raises(ParamsError, match="--processes"):
        Settings(bundles=(), port=65535, processes=2)
