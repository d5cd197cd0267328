"""Stage train_image: the image encoder of a task, frozen, fine-tuned or from scratch."""

import hashlib
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import pandas as pd
import torch
from lightning.pytorch.utilities import rank_zero_only
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mm.core.config import Params, TrainImageParams
from cxr_mm.core.errors import ParamsError, StageError
from cxr_mm.core.files import atomic_directory, to_json, write_json, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Problem, Task
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest
from cxr_mm.data.pixel_cache import PixelDataset, open_pixels
from cxr_mm.data.split import group_folds, load_split, resamples
from cxr_mm.models.image_encoder import ImageEncoder, build_image_encoder, save_image_encoder
from cxr_mm.models.precision import WantedPrecision
from cxr_mm.training.embed import image_embeddings
from cxr_mm.training.image_trainer import (
    CHOSEN_BY,
    HISTORY,
    Epoch,
    ImageFit,
    fit_image_encoder,
    write_curves,
    write_history,
)
from cxr_mm.training.losses import class_weights, masked_loss, mean_auc

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


PENALTIES = tuple(float(p) for p in np.logspace(-4, 0, 9))
"""Strengths of the L2 penalty that are tried; validation chooses."""
STEPS = 100


@dataclass(frozen=True)
class FittedHead:
    """One fitted head.

    Args:
        weight, bias: (F, D) and (F,), for embeddings as they come.
        penalty: strength of the L2 penalty, on standardised embeddings.
        train_loss, val_loss: weighted, without the penalty.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    train_loss: float
    val_loss: float

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) → logits (N, F)."""
        return embeddings @ self.weight.T + self.bias


def fit_heads(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], problem: Problem, weights: Tensor
) -> list[FittedHead]:
    """One head per penalty, strongest first, each starting from the one before.

    Args:
        train, val: embeddings (N, D) and labels (N, F) with NaN where missing.
        problem: as of the task.
        weights: (2, F) as of `class_weights`.
    """
    mean, std = train[0].mean(0), train[0].std(0, correction=0).clamp(min=1e-6)
    standard = (train[0] - mean) / std
    head = nn.Linear(standard.shape[1], train[1].shape[1])
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    fitted = []
    for penalty in sorted(PENALTIES, reverse=True):
        _minimise(head, standard, train[1], problem, weights, penalty)
        weight = head.weight.detach() / std
        bias = head.bias.detach() - weight @ mean
        losses = [masked_loss(x @ weight.T + bias, y, problem, weights) for x, y in (train, val)]
        fitted.append(FittedHead(weight, bias, penalty, *(float(loss) for loss in losses)))
    return fitted


def _minimise(
    head: nn.Linear,
    embeddings: Tensor,
    labels: Tensor,
    problem: Problem,
    weights: Tensor,
    penalty: float,
) -> None:
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = masked_loss(head(embeddings), labels, problem, weights)
        loss = loss + penalty * head.weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]


CURVES = "train_image"
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
    if params.train_image.trainable == "frozen":
        _train_head(data, params.train_image, paths)
        return
    # Lightning takes seconds to import, and a frozen encoder has no use for it.

    train_encoder(data, params.train_image, paths, paths.reports / CURVES)


def _check(task: Task, params: TrainImageParams) -> None:
    if task.split.protocol == "folds" and params.trainable != "frozen":
        raise ParamsError(
            "with the split protocol `folds` every study is test once, so the encoder may not"
            " learn from any",
            field="train_image.trainable",
            remedy="Use trainable: frozen, or the protocol patient",
        )


def _train_head(data: ImageData, params: TrainImageParams, paths: TaskPaths) -> None:
    """Fit the head alone, on embeddings of a backbone that stays exactly as it came."""
    encoder = new_encoder(data, params).eval()
    images = image_embeddings(encoder, paths, PRECISION)
    train, val = (
        (torch.from_numpy(images[data.pixel_rows[rows]]), data.targets(rows))
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
    with atomic_directory(paths.image_encoder) as folder:
        save_image_encoder(encoder, folder)
        write_history(folder / HISTORY, params, history, PRECISION)


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


def _write_skipped(paths: TaskPaths) -> None:
    with atomic_directory(paths.image_encoder) as folder:
        write_json(folder / HISTORY, {"skipped": "the task has no images", "epochs": []})
    (paths.reports / CURVES).mkdir(parents=True, exist_ok=True)


SAMPLED = 64


def training_key(
    description: dict[str, Any], labels: NDArray[np.float32], pixels: NDArray[np.uint8]
) -> str:
    """Digest of what a training depends on: two with the same key give the same encoder.

    Args:
        description: parameters, and the study ids of each part.
        labels: (N, F).
        pixels: (N, S, S); an even sample of the squares is read.
    """
    digest = hashlib.sha256(to_json(description).encode())
    digest.update(labels.tobytes())
    digest.update(repr(pixels.shape).encode())
    for row in np.linspace(0, len(pixels) - 1, min(SAMPLED, len(pixels)), dtype=int):
        digest.update(pixels[row].tobytes())
    return digest.hexdigest()[:16]


def open_checkpoints(folder: Path, key: str) -> Path:
    """The folder for this key; checkpoints of other parameters or data are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other.name != key:
            shutil.rmtree(other, ignore_errors=True)
    mine = folder / key
    mine.mkdir(exist_ok=True)
    return mine


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
    with atomic_directory(paths.image_encoder) as out:
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
