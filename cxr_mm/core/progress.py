"""Progress and cancellation of long computations, and a prefetching map."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from threading import Event, Thread
from typing import TypeVar

from tqdm import tqdm

from cxr_mm.core.errors import CancelledError

HEARTBEAT, HEARTBEAT_IN_LOG = 4.0, 60.0
"""Seconds after which a command that shows nothing says that it is at work."""


def _silent(done: int, total: int) -> None:
    del done, total


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Progress:
    """Progress callback and cancellation token of one computation.

    Args:
        callback: called with the numbers of steps done and in total.
        cancelled: checked at each step; True stops the computation.
    """

    callback: Callable[[int, int], None] = _silent
    cancelled: Callable[[], bool] = _never

    def step(self, done: int, total: int) -> None:
        """Report progress.

        Raises:
            CancelledError: the computation was cancelled.
        """
        if self.cancelled():
            raise CancelledError("the explanation was cancelled")
        self.callback(min(done, total), total)


NO_PROGRESS = Progress()


def announce(text: str) -> None:
    """Print a line on stderr at once, before what takes seconds and shows nothing by itself."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


@contextmanager
def heartbeat(text: str, every: float | None = None) -> Iterator[None]:
    """Say on stderr what is done, at once and again; a bar that shows it is redrawn.

    Args:
        text: what is done; later lines add the seconds since.
        every: seconds between lines; None for a few on a terminal and a minute in a log.
    """
    if every is None:
        every = HEARTBEAT if sys.stderr.isatty() else HEARTBEAT_IN_LOG
    announce(text)
    done, started = Event(), time.monotonic()

    def beat() -> None:
        while not done.wait(every):
            # tqdm lists a bar before it is complete; its start is set last.
            bars = [bar for bar in getattr(tqdm, "_instances", ()) if hasattr(bar, "start_t")]
            for bar in bars:
                bar.refresh()  # its clock, while the step at work takes long
            if not bars:
                announce(f"{text}: {time.monotonic() - started:.0f} s")

    thread = Thread(target=beat, name="heartbeat", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    make: Callable[[T], R], items: Iterable[T], *, ahead: int, threads: int
) -> Iterator[R]:
    """`make(item)` of each item, in order; its errors are raised when its turn comes.

    Args:
        make: safe to call from several threads.
        items: taken one by one, never more than `ahead` before their turn.
        ahead: results prepared besides the one yielded; 0 computes each when it is needed.
        threads: number of threads that call `make`.
    """
    if not ahead:
        yield from map(make, items)
        return
    waiting: deque[Future[R]] = deque()
    with ThreadPoolExecutor(threads, thread_name_prefix="ahead") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(make, item))
                if len(waiting) > ahead:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
