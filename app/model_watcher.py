"""Model watcher: load the model that a pointer names, and a new one while the page serves."""

import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from cxr_mm.core.errors import BundleError
from cxr_mm.core.task import Task
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.models.registry import bundle_of, is_pointer, read_pointer

PAUSE = 1.0
"""Seconds between two looks at a pointer."""
Load = Callable[[Path], Predictor]
QUESTION = {"name", "problem", "findings", "clinical", "note", "has_image", "views"}
"""Parts of a task that a page is built of: with another one of these it must start anew."""


class ModelWatcher:
    """The model that a pointer names, as far as it could be loaded.

    A request during the loading of a new version gets the old one. A version that cannot be
    taken up leaves the old one serving; it is tried again once the pointer changes.

    Args:
        pointer: path of `current.json`.
        clock: monotonic seconds.
        load: makes the predictor of a bundle's folder.

    Raises:
        BundleError: the pointer or what it names cannot be read.
    """

    def __init__(
        self,
        pointer: Path,
        clock: Callable[[], float] = time.monotonic,
        load: Load = load_predictor,
    ) -> None:
        self._pointer, self._clock, self._load = pointer, clock, load
        self._seen = _bytes(pointer)
        self._predictor = _load_named(pointer, load)
        self._looked = clock()
        self._looking = threading.Lock()
        self._trouble = ""

    @property
    def trouble(self) -> str:
        """Why the model that serves is not the one that is pointed to; empty where it is."""
        self.now()
        return self._trouble

    def now(self) -> Predictor:
        """The predictor that serves now; the pointer is looked at once a second at most."""
        pending = self._clock() - self._looked >= PAUSE
        if pending and self._looking.acquire(blocking=False):
            try:
                self._look()
            finally:
                self._looked = self._clock()
                self._looking.release()
        return self._predictor

    def _look(self) -> None:
        seen = _bytes(self._pointer)
        if seen == self._seen:
            return
        try:
            self._predictor = self._newer()
            self._trouble = ""
        except BundleError as error:
            self._trouble = str(error)
        self._seen = seen

    def _newer(self) -> Predictor:
        bundle = self._predictor.bundle
        if read_pointer(self._pointer).digest == bundle.digest:
            return self._predictor
        newer = _load_named(self._pointer, self._load)
        if _question(newer.bundle.task) != _question(bundle.task):
            raise BundleError(
                "it answers another question than the page was built for",
                field=newer.bundle.digest,
                remedy="Start the app anew",
            )
        return newer


def _bytes(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except OSError:
        return None


def _load_named(path: Path, load: Load) -> Predictor:
    """Load and check what a pointer names."""
    pointer = read_pointer(path)
    folder = bundle_of(path, pointer)
    predictor = load(folder)
    if predictor.bundle.digest != pointer.digest:
        raise BundleError(
            f"its digest is not the one that {path} names",
            field=str(folder),
            remedy="Point anew with python -m monitoring rollback or promote",
        )
    return predictor


def _question(task: Task) -> dict[str, object]:
    return task.model_dump(include=QUESTION)


def load_models(
    bundles: Iterable[Path], load: Load = load_predictor
) -> list[Predictor | ModelWatcher]:
    """Load the model of each bundle; one that is a pointer is followed.

    Args:
        bundles: folders and pointers.
        load: makes the predictor of a bundle's folder.

    Raises:
        BundleError: a bundle is damaged, foreign or incomplete.
    """
    return [ModelWatcher(b, load=load) if is_pointer(b) else load(b) for b in bundles]
