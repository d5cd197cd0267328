"""Processes: children that end with their parent."""

import ctypes
import os
import signal
import sys

STAGE_VARIABLE = "DVC_STAGE"
"""Environment variable that DVC sets for the command of a stage."""
PR_SET_PDEATHSIG = 1


def end_with_parent() -> None:
    """Have the system kill this process as soon as its parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_dvc() -> None:
    """In a stage that DVC runs, end with it: a killed `dvc` leaves nothing running."""
    if STAGE_VARIABLE in os.environ:
        end_with_parent()
