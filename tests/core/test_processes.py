"""A stage that DVC runs ends with it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_mm.core.processes import STAGE_VARIABLE

STAGE = """
import time
from cxr_mm.core.processes import end_with_dvc
end_with_dvc()
print("ready", flush=True)
time.sleep(60)
"""
RUNNER = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", sys.argv[1]], stdout=subprocess.PIPE, text=True)
print(child.pid, child.stdout.readline(), flush=True)
child.wait()
"""


def is_running(pid):
    """Whether a process is there and more than a body that nobody has fetched."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ends(pid, seconds=10):
    until = time.monotonic() + seconds
    while is_running(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not is_running(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="the tie to the parent is Linux's")
@pytest.mark.parametrize("stage", ["explain@synthetic", None])
def test_a_killed_dvc_leaves_no_stage_behind(stage):
    environment = {k: v for k, v in os.environ.items() if k != STAGE_VARIABLE}
    environment |= {STAGE_VARIABLE: stage} if stage else {}
    words = [sys.executable, "-c", RUNNER, STAGE]
    runner = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env=environment)
    pid = int(runner.stdout.readline().split()[0])
    runner.kill()
    runner.communicate()
    try:
        assert ends(pid, 10 if stage else 0.5) == (stage is not None)
    finally:
        if is_running(pid):
            os.kill(pid, signal.SIGKILL)
