"""Training images per second through the whole path against bare forward and backward.

The path is that of the stage: pixel cache, augmentation, Lightning, loss, optimiser and schedule.
Each epoch is timed from the first batch that is asked for to the end of the last step; then, before
the epoch's validation, as many bare steps are timed.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from benchmarks.bare import bare_training, random_batches
from benchmarks.rounds import Seconds
from cxr_mm.data.dataset import LabelledSquares, PixelDataset
from cxr_mm.files import read_json
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import Precision
from cxr_mm.params import TrainImageParams
from cxr_mm.training.image_fit import PRECISION, fit_image_encoder

EPOCHS, STEPS = 6, 3
"""The first epoch warms up and does not count."""


class _Watched(PixelDataset):
    """Says when a batch is asked for."""

    asked: Callable[[], None]

    def __getitems__(self, indices: Sequence[int]) -> LabelledSquares:
        self.asked()
        return super().__getitems__(indices)


class Stopwatch:
    """Seconds of each epoch's training, and of as many bare steps right after it."""

    def __init__(self, bare: Callable[[], Callable[[], None]]) -> None:
        self._make_bare = bare
        self._bare: Callable[[], None] | None = None
        self._started: float | None = None
        self.taken: Seconds = {"path": [], "bare": []}

    def training(self) -> None:
        """A batch to train on is asked for."""
        self._started = self._started or time.perf_counter()

    def validation(self) -> None:
        """A batch to validate on is asked for: training is over for this epoch."""
        if self._started is None:
            return
        path, self._started = time.perf_counter() - self._started, None
        # Lightning asks for these batches where no gradient is kept.
        with torch.inference_mode(False), torch.enable_grad():
            if self._bare is None:
                self._bare = self._make_bare()
                self._bare()
                return
            started = time.perf_counter()
            self._bare()
        self.taken["bare"].append(time.perf_counter() - started)
        self.taken["path"].append(path)


def training_speed(encoder: ImageEncoder, params: TrainImageParams) -> Seconds:
    """Seconds of `path` and of `bare`, epoch by epoch.

    Args:
        encoder: trained in place.
        params: epochs are set here; everything else is the caller's.
    """
    size, batch = encoder.spec.size, params.batch_size
    own = copy.deepcopy(encoder)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pixels = np.random.default_rng(0).integers(0, 256, (batch * STEPS, size, size), np.uint8)
        np.save(folder / "pixels.npy", pixels)
        labels = (np.arange(batch * STEPS) % 2).astype(np.float32)[:, None]

        def bare() -> Callable[[], None]:
            precision = Precision(**read_json(folder / PRECISION))
            return bare_training(own, random_batches(STEPS, batch, size), precision)

        watch = Stopwatch(bare)
        train = _Watched(folder / "pixels.npy", np.arange(len(pixels)), labels)
        val = _Watched(folder / "pixels.npy", np.arange(batch), labels[:batch])
        train.asked, val.asked = watch.training, watch.validation
        params = params.model_copy(update={"epochs": EPOCHS})
        fit_image_encoder(encoder, train, val, "binary", params, folder, folder / "curves")
    return watch.taken
