"""Stage train_image: the image encoder of a task, frozen, fine-tuned or from scratch."""

import shutil

import torch

from cxr_mm.contracts.task import Task
from cxr_mm.errors import ParamsError
from cxr_mm.files import folder_written_aside, write_json
from cxr_mm.models.image_encoder import save_image_encoder
from cxr_mm.models.precision import WantedPrecision
from cxr_mm.params import Params, TrainImageParams
from cxr_mm.paths import TaskPaths
from cxr_mm.training.curves import CHOSEN_BY, HISTORY, Epoch, write_curves, write_history
from cxr_mm.training.film_embeddings import film_embeddings
from cxr_mm.training.image_data import ImageData, load_image_data, new_encoder
from cxr_mm.training.linear_head import FittedHead, fit_heads
from cxr_mm.training.loss import class_weights, mean_auc

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
    from cxr_mm.training.learning_encoder import train_encoder

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
    with folder_written_aside(paths.image_encoder) as folder:
        write_json(folder / HISTORY, {"skipped": "the task has no images", "epochs": []})
    (paths.reports / CURVES).mkdir(parents=True, exist_ok=True)
