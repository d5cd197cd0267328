"""An error is one line at every entry point; a stage that DVC runs ends with it."""

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cxr_mm.core.errors import InputError
from cxr_mm.core.processes import STAGE_VARIABLE, errors_as_one_line

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


NOTE = "Fever. " * 99


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("is odd", field="age", remedy="Mend it"), "error: age: is odd. Mend it."),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)), "error: No space left on device."),
        (OSError(errno.EACCES, "Permission denied", "a.png"), "error: a.png: Permission denied."),
        (OSError(errno.ENAMETOOLONG, "File name too long", NOTE), "error: …: File name too long."),
        (OSError("the server is gone"), "error: the server is gone."),
    ],
)
def test_an_error_that_a_user_can_fix_is_one_line_and_exit_code_2(capsys, error, line):
    with pytest.raises(SystemExit) as stop, errors_as_one_line():
        raise error
    assert stop.value.code == 2
    assert capsys.readouterr().err == line + "\n"


def test_any_other_error_keeps_its_traceback():
    with pytest.raises(ValueError, match="a fault of ours"), errors_as_one_line():
        raise ValueError("a fault of ours")


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
