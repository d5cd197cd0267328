"""Allocator: keep memory that a network frees, since the next forward pass needs it again.

glibc maps every block above 128 KiB afresh and hands it back when it is freed (mallopt(3)). The
scratch buffers of a forward pass are larger, so each pass faults all its pages in again: a quarter
to a half of all processor time was spent in the kernel.
"""

import atexit
import contextlib
import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

SWITCH: Final = "CXR_MM_MALLOC"
"""Environment variable; `0` leaves glibc as it is, to measure against."""
MIB = 1024**2
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -2, -3, -8
"""Names and numbers of glibc's malloc.h."""
OPTIONS: Final = {
    M_MMAP_THRESHOLD: 1024 * MIB,
    M_TRIM_THRESHOLD: 2048 * MIB - 1,
    M_TOP_PAD: 64 * MIB,
}
"""Option → value in bytes; the largest that mallopt's `int` holds stands for "never trim"."""


def keep_freed_memory(arenas: int | None = None) -> bool:
    """Tell glibc to keep freed memory for the next allocation; call once, at the start.

    Args:
        arenas: the most heaps that threads share, for a server whose threads come and go: what one
            arena keeps is of no use to the others. None leaves glibc's own number.

    Returns:
        Whether every option was set: False without glibc, or where `CXR_MM_MALLOC=0`.
    """
    if os.environ.get(SWITCH) == "0":
        return False
    options = OPTIONS if arenas is None else {**OPTIONS, M_ARENA_MAX: arenas}
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return all(mallopt(option, value) for option, value in options.items())
    return False


def skip_last_collection() -> None:
    """Let the process end without a look through every object; call once, at the start.

    The system takes the memory back at once, while Python's collections at the end of a process
    cost a quarter of a cold prediction. Files are closed by those who opened them.
    """
    atexit.register(gc.freeze)


@contextmanager
def without_collection() -> Iterator[None]:
    """Leave Python's cycles uncollected while a process starts, and look through its objects never.

    The collector otherwise looks again and again through all that imports create: a quarter of a
    start. What was made meanwhile stays as long as the process, so this is not for its work.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
