"""Progress and cancellation of long computations, and a prefetching map."""

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

from cxr_mm.core.errors import CancelledError


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
