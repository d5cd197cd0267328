"""Stage train_image: the image encoder of a task, frozen, fine-tuned or from scratch."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_only

from cxr_mm.contracts.task import Task
from cxr_mm.errors import ParamsError
from cxr_mm.files import folder_written_aside, write_json, write_parquet
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder, save_image_encoder
from cxr_mm.models.precision import WantedPrecision
from cxr_mm.params import Params, TrainImageParams
from cxr_mm.paths import TaskPaths
from cxr_mm.training.cross_fit import group_folds
from cxr_mm.training.curves import CHOSEN_BY, Epoch, write_curves
from cxr_mm.training.film_embeddings import film_embeddings
from cxr_mm.training.image_data import ImageData, load_image_data
from cxr_mm.training.image_fit import ImageFit, fit_image_encoder
from cxr_mm.training.image_module import mean_auc
from cxr_mm.training.linear_head import FittedHead, fit_heads
from cxr_mm.training.loss import class_weights
from cxr_mm.training.resume import open_checkpoints, training_key

CHECKPOINTS = CURVES = "train_image"
HISTORY = "history.json"
FOLDS = "folds.parquet"
PRECISION: WantedPrecision = "fp32"
"""Of a frozen encoder: that of `embed` and of serving."""


def train_image(task: Task, params: Params, paths: TaskPaths) -> None:
    """Train the image encoder and write it with its history and curves.

    Leaves `encoder.safetensors`, `encoder.json` and `history.json` in `paths.image_encoder`, with
    `cross_fit` also `fold_K/` and `folds.parquet`. A task without images gets `history.json`
    alone. An interrupted training goes on from its last whole epoch.

    Raises:
        ParamsError: parameters that contradict the split, or a size the backbone cannot take.
        WeightsError: pretrained weights that cannot be had.
        StageError: an earlier stage has not run, or a part has no study with image and label.
    """
    if not task.has_image:
        _write_skipped(paths)
        return
    _check(task, params.train_image)
    data = load_image_data(task, paths)
    shutil.rmtree(paths.reports / CURVES, ignore_errors=True)
    L.seed_everything(params.train_image.seed, verbose=False)
    if params.train_image.trainable == "frozen":
        _train_head(data, params.train_image, paths)
    else:
        _train_encoder(data, params.train_image, paths)


def _check(task: Task, params: TrainImageParams) -> None:
    if task.split.protocol == "folds" and params.trainable != "frozen":
        raise ParamsError(
            "with the split protocol `folds` every study is test once, so the encoder may not"
            " learn from any",
            field="train_image.trainable",
            remedy="Use trainable: frozen, or the protocol patient",
        )


def _encoder(data: ImageData, params: TrainImageParams) -> ImageEncoder:
    """A new encoder; the same one whenever it is asked for."""
    torch.manual_seed(params.seed)
    return build_image_encoder(
        params.backbone,
        data.pixels.shape[1],
        data.labels.shape[1],
        params.dropout,
        params.weights,
    )


def _train_head(data: ImageData, params: TrainImageParams, paths: TaskPaths) -> None:
    """Fit the head alone, on embeddings of a backbone that stays exactly as it came."""
    encoder = _encoder(data, params).eval()
    films = film_embeddings(encoder, paths, PRECISION)
    train, val = (
        (torch.from_numpy(films[data.pixel_rows[rows]]), data.targets(rows))
        for rows in (data.train, data.val)
    )
    weights = torch.ones(2, encoder.spec.outputs)
    if params.class_weights:
        weights = class_weights(train[1], data.problem)
    heads = fit_heads(train, val, data.problem, weights)
    best = min(heads, key=lambda head: head.val_loss)
    with torch.no_grad():
        encoder.head.weight.copy_(best.weight)
        encoder.head.bias.copy_(best.bias)
    aucs = [mean_auc(head.logits(val[0]), val[1], data.problem) for head in heads]
    history = [
        _as_epoch(n, head, auc) for n, (head, auc) in enumerate(zip(heads, aucs, strict=True))
    ]
    write_curves(paths.reports / CURVES, history)
    with folder_written_aside(paths.image_encoder) as folder:
        save_image_encoder(encoder, folder)
        _write_history(folder / HISTORY, params, history, PRECISION)


def _as_epoch(number: int, head: FittedHead, auc: float) -> Epoch:
    return {
        "epoch": float(number),
        "penalty": head.penalty,
        "train_loss": head.train_loss,
        "val_loss": head.val_loss,
        # The head is a logistic regression, calibrated by its own fit.
        CHOSEN_BY: head.val_loss,
        "val_auc": auc,
    }


def _train_encoder(data: ImageData, params: TrainImageParams, paths: TaskPaths) -> None:
    """Train one encoder on all training rows and, for cross-fitting, one without each fold."""
    folds = np.full(len(data.train), -1)
    if params.cross_fit:
        labels, groups = data.labels[data.train], data.groups[data.train]
        folds = group_folds(labels, groups, params.cross_fit, params.seed)
    described = {
        "params": params.model_dump(),
        "train": data.study_ids[data.train].tolist(),
        "val": data.study_ids[data.val].tolist(),
        "folds": folds.tolist(),
    }
    key = training_key(described, data.labels, data.pixels)
    checkpoints = paths.checkpoints / CHECKPOINTS
    folder, curves = open_checkpoints(checkpoints, key), paths.reports / CURVES
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
        _write_history(out / HISTORY, params, fit.history, fit.precision)
        for k, without in enumerate(out_of_fold):
            save_image_encoder(without.encoder, out / f"fold_{k}")
            _write_history(out / f"fold_{k}" / HISTORY, params, without.history, without.precision)
        if out_of_fold:
            table = pd.DataFrame({"study_id": data.study_ids[data.train], "fold": folds})
            write_parquet(out / FOLDS, table)
    shutil.rmtree(checkpoints, ignore_errors=True)


def _fit(data: ImageData, params: TrainImageParams, folder: Path, curves: Path) -> ImageFit:
    folder.mkdir(exist_ok=True)
    return fit_image_encoder(
        _encoder(data, params),
        data.dataset(data.train),
        data.dataset(data.val),
        data.problem,
        params,
        folder,
        curves,
    )


def _write_history(
    path: Path, params: TrainImageParams, history: list[Epoch], precision: str
) -> None:
    best = min(history, key=lambda epoch: epoch[CHOSEN_BY])
    said: dict[str, Any] = {"params": params.model_dump(), "precision": precision}
    write_json(path, {**said, "best_epoch": int(best["epoch"]), "epochs": history})


def _write_skipped(paths: TaskPaths) -> None:
    with folder_written_aside(paths.image_encoder) as folder:
        write_json(folder / HISTORY, {"skipped": "the task has no images", "epochs": []})
    (paths.reports / CURVES).mkdir(parents=True, exist_ok=True)
