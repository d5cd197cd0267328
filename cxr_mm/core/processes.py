"""Processes: how an entry point reports errors, and children that end with their parent."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from cxr_mm.core.errors import CxrError
from cxr_mm.core.verdict import ERROR_EXIT_CODE

STAGE_VARIABLE = "DVC_STAGE"
"""Environment variable that DVC sets for the command of a stage."""
PR_SET_PDEATHSIG = 1


@contextmanager
def errors_as_one_line() -> Iterator[None]:
    """Print an error that a user can fix as one line on stderr, and exit with code 2.

    These are every CxrError, and an OSError of a file that no layer knows more about than the
    system says, as a full disk. Every entry point runs within it.
    """
    try:
        yield
    except CxrError as error:
        _exit(str(error))
    except OSError as error:
        _exit(_described(error))


def _exit(line: str) -> NoReturn:
    sys.stderr.write(f"error: {line}\n")
    sys.exit(ERROR_EXIT_CODE)


def _described(error: OSError) -> str:
    from cxr_mm.core.files import shortened  # slow to import

    where = f"{shortened(Path(os.fsdecode(error.filename)))}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def end_with_parent() -> None:
    """Have the system kill this process as soon as its parent ends (Linux only)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def end_with_dvc() -> None:
    """In a stage that DVC runs, end with it: a killed `dvc` leaves nothing running."""
    if STAGE_VARIABLE in os.environ:
        end_with_parent()
