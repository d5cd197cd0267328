"""Training curves as DVCLive files, kept exact over an interruption."""

import math
from pathlib import Path
from typing import Any

from dvclive import Live

from cxr_mm.files import write_json
from cxr_mm.params import TrainImageParams

HISTORY = "history.json"
CHOSEN_BY = "val_calibrated_loss"
CURVES = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    CHOSEN_BY: "val/calibrated_loss",
    "val_auc": "val/auc",
}
Epoch = dict[str, float]


class _FilesOnly(Live):  # type: ignore[misc]
    """DVCLive that writes its files and touches no repository.

    By itself it looks for a DVC repository even where no experiment is asked for, makes and
    stages one in the user's Git repository where it finds none, and fails on one without commits.
    """

    def _init_dvc(self) -> None:
        self._dvc_repo = None


def write_curves(folder: Path, history: list[Epoch]) -> None:
    """Write the curves of a training that is over."""
    live = open_curves(folder)
    for epoch in history:
        add_epoch(live, epoch)
    live.end()


def open_curves(folder: Path) -> Live:
    """Begin curves anew."""
    return _FilesOnly(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)


def add_epoch(live: Live, epoch: Epoch) -> None:
    """Add one epoch; what is not finite is left out."""
    for name, curve in CURVES.items():
        if math.isfinite(epoch[name]):
            live.log_metric(curve, epoch[name])
    live.next_step()


def write_history(
    path: Path, params: TrainImageParams, history: list[Epoch], precision: str
) -> None:
    """Write the epochs of a training, its parameters and which epoch was kept."""
    best = min(history, key=lambda epoch: epoch[CHOSEN_BY])
    said: dict[str, Any] = {"params": params.model_dump(), "precision": precision}
    write_json(path, {**said, "best_epoch": int(best["epoch"]), "epochs": history})
