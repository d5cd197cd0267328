"""Image data: what an image training reads of ingest and split."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.contracts.manifest import ABSENT, Manifest
from cxr_mm.contracts.task import Problem, Task
from cxr_mm.data.cache import open_pixels
from cxr_mm.data.dataset import PixelDataset
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.split import load_split, resamples
from cxr_mm.errors import StageError
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder
from cxr_mm.params import TrainImageParams
from cxr_mm.paths import TaskPaths

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ImageData:
    """What a training reads.

    Args:
        pixel_rows: (N,) row in the cache of each study of the manifest, -1 without an image.
        labels: (N, F) 1, 0 or NaN.
        groups: (N,) as the split keeps together.
        train, val: rows of the manifest that have an image and a label.
    """

    problem: Problem
    path: Path
    pixels: NDArray[np.uint8]
    study_ids: NDArray[np.object_]
    pixel_rows: Rows
    labels: NDArray[np.float32]
    groups: NDArray[np.object_]
    train: Rows
    val: Rows

    def dataset(self, rows: Rows) -> PixelDataset:
        """The rows as batches are read from them."""
        return PixelDataset(self.path, self.pixel_rows[rows], self.labels[rows])

    def targets(self, rows: Rows) -> Tensor:
        """Labels (n, F) of the rows."""
        return torch.from_numpy(self.labels[rows])


def load_image_data(task: Task, paths: TaskPaths) -> ImageData:
    """Read manifest, split and pixel cache; of several resamples, the first.

    Raises:
        StageError: an earlier stage has not run, or a part has no study with image and label.
    """
    manifest, table = load_manifest(paths, task), load_split(paths)
    if list(table["study_id"]) != list(manifest.frame["study_id"]):
        raise StageError(
            "its rows are not those of the manifest",
            field=str(paths.split),
            remedy="Run the stage `split` again",
        )
    chosen, pixels = resamples(table)[0], open_pixels(paths.pixels)
    return ImageData(
        task.problem,
        paths.pixels,
        pixels,
        manifest.frame["study_id"].to_numpy(object),
        manifest.frame["pixel_row"].to_numpy(np.int64),
        manifest.labels(),
        table["group"].to_numpy(object),
        _usable(manifest, chosen.train, "training"),
        _usable(manifest, chosen.val, "validation"),
    )


def _usable(manifest: Manifest, rows: Rows, part: str) -> Rows:
    has_image = manifest.frame["pixel_row"].to_numpy()[rows] != ABSENT
    usable: Rows = rows[has_image & ~np.isnan(manifest.labels()[rows]).all(axis=1)]
    if len(usable) < 2:
        raise StageError(
            f"{len(usable)} studies of the {part} part have an image and a label",
            field="train_image",
            remedy="Look at the ingest report and the split",
        )
    return usable


def new_encoder(data: ImageData, params: TrainImageParams) -> ImageEncoder:
    """A new encoder; the same one whenever it is asked for."""
    torch.manual_seed(params.seed)
    return build_image_encoder(
        params.backbone,
        data.pixels.shape[1],
        data.labels.shape[1],
        params.dropout,
        params.weights,
        params.pool,
        mirror=params.mirror,
    )
