"""Progress: how a long explanation says how far it is, and how it is told to stop."""

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
    """Looks at one computation.

    Args:
        callback: called with how many questions the model has answered and of how many.
        cancelled: asked after each batch whether to stop.
    """

    callback: Callable[[int, int], None] = _silent
    cancelled: Callable[[], bool] = _never

    def step(self, done: int, total: int) -> None:
        """Tell how far it is.

        Raises:
            CancelledError: whoever waited no longer does.
        """
        if self.cancelled():
            raise CancelledError("the explanation was cancelled")
        self.callback(min(done, total), total)


NO_PROGRESS = Progress()


T = TypeVar("T")
R = TypeVar("R")


def prefetch(
    make: Callable[[T], R], items: Iterable[T], *, ahead: int, threads: int
) -> Iterator[R]:
    """`make(item)` of each item, in order; what it raises is raised when its turn comes.

    Args:
        make: safe to call from several threads.
        items: taken one by one, never more than `ahead` before their turn.
        ahead: results kept ready besides the one given out; 0 makes each when it is asked for.
        threads: that make them.
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
