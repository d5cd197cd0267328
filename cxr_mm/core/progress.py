"""Progress, tracking and cancellation of long computations, and a prefetching map."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any, TypeVar

from tqdm import tqdm

from cxr_mm.core.errors import CancelledError
from cxr_mm.core.types import plural

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


class ProgressBar(tqdm):  # type: ignore[misc]
    """A bar on a terminal; in a log it counts, and the heartbeat says how many of how many.

    Args:
        iterable: what is counted as it passes; None where `update` counts.
        desc: what is done.
        unit: what is counted, in the singular.
        others: as tqdm has them.
    """

    def __init__(
        self, iterable: Iterable[Any] | None = None, *, desc: str, unit: str, **others: Any
    ) -> None:
        # tqdm leaves it to such a bar to draw itself.
        super().__init__(iterable, desc, unit=unit, gui=not sys.stderr.isatty(), **others)

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        return not self.gui and bool(super().display(msg, pos))

    @property
    def line(self) -> str:
        """How far it is, as `radiographs 1,024 of 5,600 images, 12 a second, 00:06:21 left`."""
        count = f"{self.n:,} of {plural(self.total, self.unit)}" if self.total else f"{self.n:,}"
        rate = (self.n - self.initial) / max(self.format_dict["elapsed"], 1e-9)
        words = [f"{self.desc.removesuffix(': ')} {count}"]
        words += [f"{rate:.3g} a second"] if rate else []
        if rate and self.total:
            words.append(f"{self.format_interval((self.total - self.n) / rate)} left")
        return ", ".join(words)


@contextmanager
def heartbeat(text: str, every: float | None = None) -> Iterator[None]:
    """Say on stderr what is done, at once and again; a bar says it where there is one.

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
            counting = [bar for bar in bars if isinstance(bar, ProgressBar) and bar.gui]
            if counting or not bars:
                lines = [bar.line for bar in sorted(counting, key=lambda bar: abs(bar.pos))]
                lines.append(f"{time.monotonic() - started:.0f} s")
                announce(f"{text}: {', '.join(lines)}")

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


class Tracking:
    """Takes what a stage tells and sends it nowhere; the class of a tracking server sends it."""

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Take parameters by name, each once."""

    def figures(self, values: Mapping[str, float | None], epoch: int = 0) -> None:
        """Take figures by name; those that are not defined are left out."""

    def tag(self, name: str, value: str) -> None:
        """Take a word that the run is found by."""

    def file(self, path: Path) -> None:
        """Take a file."""


UNTRACKED = Tracking()
DIGEST_TAG = "bundle"
"""Tag with the digest of the bundle, by which runs of `fuse` and `evaluate` are joined."""
