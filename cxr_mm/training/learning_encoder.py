"""Training of an encoder that learns: one on all training rows, and one without each fold."""

import shutil
from dataclasses import replace
from pathlib import Path

import lightning as L  # noqa: N812
import numpy as np
import pandas as pd
from lightning.pytorch.utilities import rank_zero_only

from cxr_mm.files import folder_written_aside, write_parquet
from cxr_mm.models.image_encoder import save_image_encoder
from cxr_mm.params import TrainImageParams
from cxr_mm.paths import TaskPaths
from cxr_mm.training.cross_fit import group_folds
from cxr_mm.training.curves import HISTORY, write_history
from cxr_mm.training.image_data import ImageData, new_encoder
from cxr_mm.training.image_fit import ImageFit, fit_image_encoder
from cxr_mm.training.resume import open_checkpoints, training_key

CHECKPOINTS = "train_image"
FOLDS = "folds.parquet"


def train_encoder(
    data: ImageData, params: TrainImageParams, paths: TaskPaths, curves: Path
) -> None:
    """Train one encoder on all training rows and, for cross-fitting, one without each fold."""
    L.seed_everything(params.seed, verbose=False)
    folds = np.full(len(data.train), -1)
    if params.cross_fit:
        labels, groups = data.labels[data.train], data.groups[data.train]
        folds = group_folds(labels, groups, params.cross_fit, params.seed, "train_image.cross_fit")
    described = {
        "params": params.model_dump(),
        "train": data.study_ids[data.train].tolist(),
        "val": data.study_ids[data.val].tolist(),
        "folds": folds.tolist(),
    }
    key = training_key(described, data.labels, data.pixels)
    checkpoints = paths.checkpoints / CHECKPOINTS
    folder = open_checkpoints(checkpoints, key)
    fit = _fit(data, params, folder / "encoder", curves)
    out_of_fold = [
        _fit(
            replace(data, train=data.train[folds != k]),
            params,
            folder / f"fold_{k}",
            curves / f"fold_{k}",
        )
        for k in range(params.cross_fit)
    ]
    if rank_zero_only.rank:
        return
    with folder_written_aside(paths.image_encoder) as out:
        save_image_encoder(fit.encoder, out)
        write_history(out / HISTORY, params, fit.history, fit.precision)
        for k, without in enumerate(out_of_fold):
            save_image_encoder(without.encoder, out / f"fold_{k}")
            write_history(out / f"fold_{k}" / HISTORY, params, without.history, without.precision)
        if out_of_fold:
            table = pd.DataFrame({"study_id": data.study_ids[data.train], "fold": folds})
            write_parquet(out / FOLDS, table)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _fit(data: ImageData, params: TrainImageParams, folder: Path, curves: Path) -> ImageFit:
    folder.mkdir(exist_ok=True)
    return fit_image_encoder(
        new_encoder(data, params),
        data.dataset(data.train),
        data.dataset(data.val),
        data.problem,
        params,
        folder,
        curves,
    )
