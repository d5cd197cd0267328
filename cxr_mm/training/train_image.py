"""Stage train_image: the image encoder of a task, frozen, fine-tuned or from scratch."""

import hashlib
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from cxr_mm.core.config import Params, TrainImageParams
from cxr_mm.core.errors import ParamsError, StageError
from cxr_mm.core.files import atomic_directory, to_json, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.progress import UNTRACKED, Tracking
from cxr_mm.core.task import Problem, Task
from cxr_mm.core.types import plural
from cxr_mm.data.manifest import ABSENT, Manifest, load_image_rows
from cxr_mm.data.pixel_cache import open_pixels, read_rows
from cxr_mm.data.split import load_split, resamples
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder, save_image_encoder
from cxr_mm.training.history import HISTORY, write_history
from cxr_mm.training.pixel_dataset import PixelDataset

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class ImageData:
    """Images, labels and rows of one training.

    Args:
        pixel_rows: (N,) row in the pixel cache of each study, -1 without an image.
        labels: (N, F) 1, 0 or NaN.
        train, val: rows of the manifest that have an image and a label.
    """

    problem: Problem
    path: Path
    study_ids: "pd.Series[str]"
    pixel_rows: Rows
    labels: NDArray[np.float32]
    train: Rows
    val: Rows

    def dataset(self, rows: Rows) -> PixelDataset:
        """Dataset of some rows."""
        return PixelDataset(self.path, self.pixel_rows[rows], self.labels[rows])


def load_image_data(task: Task, paths: TaskPaths) -> ImageData:
    """Read manifest, split and pixel cache; of several resamples, the first.

    Raises:
        StageError: an earlier stage has not run, or a part has no study with image and label.
    """
    manifest, table = load_image_rows(paths, task), load_split(paths)
    if not np.array_equal(table["study_id"], manifest.frame["study_id"]):
        raise StageError(
            "its rows are not those of the manifest",
            field=str(paths.split),
            remedy="Run the stage `split` again",
        )
    chosen = resamples(table)[0]
    return ImageData(
        task.problem,
        paths.pixels,
        manifest.frame["study_id"],
        manifest.frame["pixel_row"].to_numpy(np.int64),
        manifest.labels(),
        _usable(manifest, chosen.train, "training"),
        _usable(manifest, chosen.val, "validation"),
    )


def _usable(manifest: Manifest, rows: Rows, part: str) -> Rows:
    has_image = manifest.frame["pixel_row"].to_numpy()[rows] != ABSENT
    usable: Rows = rows[has_image & ~np.isnan(manifest.labels()[rows]).all(axis=1)]
    if len(usable) < 2:
        raise StageError(
            f"{plural(len(usable), 'study')} of the {part} part with an image and a label",
            field="train_image",
            remedy="Look at the ingest report and the split",
        )
    return usable


def new_encoder(task: Task, params: Params) -> ImageEncoder:
    """Build the untrained encoder of a task; the same seed gives the same one."""
    train = params.train_image
    torch.manual_seed(train.seed)
    return build_image_encoder(
        train.backbone,
        params.ingest.size,
        len(task.findings),
        train.dropout,
        train.weights,
        train.pool,
        mirror=train.mirror,
        resolution=train.resolution,
    )


CURVES = "train_image"


def train_image(
    task: Task, params: Params, paths: TaskPaths, tracking: Tracking = UNTRACKED
) -> None:
    """Train the image encoder and write it with its history and curves.

    Leaves `encoder.safetensors`, `encoder.json` and `history.json` in `paths.image_encoder`. A
    frozen encoder is written as it is built, its history and curves are empty: `fuse` fits the only
    head that reads its embeddings. A task without images gets `history.json` alone. An interrupted
    training goes on from its last whole epoch. `tracking` is told the parameters and each epoch.

    Raises:
        ParamsError: parameters that contradict the split, or a size the backbone cannot take.
        WeightsError: pretrained weights that are not available.
        StageError: an earlier stage has not run, or a part has no study with image and label.
    """
    curves = paths.reports / CURVES
    shutil.rmtree(curves, ignore_errors=True)
    curves.mkdir(parents=True, exist_ok=True)  # a process of another device may be as far
    if not task.has_image:
        with atomic_directory(paths.image_encoder) as folder:
            write_json(folder / HISTORY, {"skipped": "the task has no images", "epochs": []})
        return
    encoder = new_encoder(task, params)
    if params.train_image.trainable != "frozen":
        _check_split(task)
        _train(encoder, load_image_data(task, paths), params.train_image, paths, curves, tracking)
        return
    tracking.parameters(params.train_image.model_dump())
    with atomic_directory(paths.image_encoder) as folder:
        save_image_encoder(encoder, folder)
        write_history(folder / HISTORY, params.train_image, [])


def _check_split(task: Task) -> None:
    if task.split.protocol in ("folds", "sites"):
        raise ParamsError(
            f"with the split protocol `{task.split.protocol}` every study is tested once, so the"
            " encoder may not learn from any",
            field="train_image.trainable",
            remedy="Use trainable: frozen, or the protocol patient",
        )


SAMPLED = 64


def training_key(params: TrainImageParams, data: ImageData) -> str:
    """Digest of what a training depends on: two with the same key give the same encoder.

    Of the pixels an even sample of the squares is read.
    """
    digest = hashlib.sha256(to_json(params.model_dump()).encode())
    shape = open_pixels(data.path).shape
    sample = np.linspace(0, shape[0] - 1, min(SAMPLED, shape[0]), dtype=np.int64)
    ids = pd.util.hash_pandas_object(data.study_ids, index=False)
    for values in (ids, data.train, data.val, data.labels, shape, read_rows(data.path, sample)):
        digest.update(np.asarray(values).tobytes())
    return digest.hexdigest()[:16]


def open_checkpoints(folder: Path, key: str) -> Path:
    """Make the folder for this key; checkpoints of other parameters or data are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    own = folder / key
    own.mkdir(exist_ok=True)
    return own


CHECKPOINTS = "train_image"


def _train(
    encoder: ImageEncoder,
    data: ImageData,
    params: TrainImageParams,
    paths: TaskPaths,
    curves: Path,
    tracking: Tracking,
) -> None:
    """Train the encoder in place and write it."""
    import lightning as L  # noqa: N812  slow to import, and a frozen encoder needs none of it
    from lightning.pytorch.utilities import rank_zero_only

    from cxr_mm.training.image_trainer import fit_image_encoder

    L.seed_everything(params.seed, verbose=False)
    if not rank_zero_only.rank:
        tracking.parameters(params.model_dump())
    checkpoints = paths.checkpoints / CHECKPOINTS
    fit = fit_image_encoder(
        encoder,
        data.dataset(data.train),
        data.dataset(data.val),
        data.problem,
        params,
        open_checkpoints(checkpoints, training_key(params, data)),
        curves,
        tracking,
    )
    if rank_zero_only.rank:
        return
    with atomic_directory(paths.image_encoder) as folder:
        save_image_encoder(encoder, folder)
        write_history(folder / HISTORY, params, fit.history, fit.precision)
    shutil.rmtree(checkpoints, ignore_errors=True)
