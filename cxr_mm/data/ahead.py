"""Reading ahead: what is needed next is made in threads while the caller works on what came before.

Decoding a film holds no lock of the interpreter, so threads are enough.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


def made_ahead(
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
