"""Batching: what several requests want of the model at the same time, done in one go."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.inference.predictor import EncodedAnswer, Predictor, load_predictor
from cxr_mm.models.bundle import Bundle, load_bundle

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Does the work of concurrent callers together.

    Nothing is waited for: as soon as the work before it is done, all that wait by then become the
    next batch, in the order in which they came. One thread does the work, since each thread that
    has run a network keeps memory of its own for it.

    Args:
        work: several items → as many results, in their order.
        most: items of a batch.
    """

    def __init__(self, work: Callable[[Sequence[Item]], Sequence[Result]], most: int) -> None:
        self._work, self._most = work, most
        self._waiting: deque[tuple[Item, Future[Result]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="batch")

    def run(self, item: Item) -> Result:
        """Do the work of one item, together with those that wait too; safe for threads.

        Raises:
            Exception: what the work raises for this item alone.
        """
        future: Future[Result] = Future()
        self._waiting.append((item, future))
        self._thread.submit(self._next_batch)
        return future.result()

    def _next_batch(self) -> None:
        batch = [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
        if not self._done(batch) and len(batch) > 1:
            for each in batch:  # so that an error is that of its own item
                self._done([each])

    def _done(self, batch: Sequence[tuple[Item, "Future[Result]"]]) -> bool:
        """Do the work of a batch; an error of a single item goes to its caller."""
        try:
            results = self._work([item for item, _ in batch]) if batch else []
        except Exception as error:  # noqa: BLE001  of whatever kind: its caller raises it
            if len(batch) == 1:
                batch[0][1].set_exception(error)
            return False
        for (_, future), result in zip(batch, results, strict=True):
            future.set_result(result)
        return True


class BatchingPredictor(Predictor):
    """A predictor that answers single studies together, where several are asked for at once.

    Args:
        bundle: a loaded bundle.
        max_batch: studies of one forward pass.
    """

    def __init__(self, bundle: Bundle, max_batch: int) -> None:
        super().__init__(bundle, keep_maps=True)
        self._batcher: Batcher[Study, EncodedAnswer | InputError] = Batcher(self.attempt, max_batch)

    def attempt_one(self, study: Study) -> EncodedAnswer | InputError:
        return self._batcher.run(study)


def load_batching_predictor(folder: Path, max_batch: int) -> Predictor:
    """Load a bundle and make its predictor, a batching one if `max_batch` is more than 1.

    Raises:
        BundleError: see `load_bundle`.
    """
    if max_batch > 1:
        return BatchingPredictor(load_bundle(folder), max_batch)
    return load_predictor(folder, keep_maps=True)
