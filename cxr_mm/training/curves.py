"""Training curves as DVCLive files, kept exact over an interruption."""

import math
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
from dvclive import Live

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


class Curves(L.Callback):  # type: ignore[misc]
    """Keeps the figures of each epoch, in the checkpoint too, and writes them as DVCLive curves."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.history = folder, list[Epoch]()
        self._live: Live | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if trainer.is_global_zero:
            self._live = _opened(self.folder)
            for epoch in self.history:
                _add(self._live, epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        figures = {name: float(trainer.callback_metrics[name]) for name in CURVES}
        self.history.append({"epoch": float(trainer.current_epoch), **figures})
        if self._live is not None:
            _add(self._live, self.history[-1])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self._live is not None:
            self._live.end()


def write_curves(folder: Path, history: list[Epoch]) -> None:
    """Write the curves of a training that is over."""
    live = _opened(folder)
    for epoch in history:
        _add(live, epoch)
    live.end()


def _opened(folder: Path) -> Live:
    return _FilesOnly(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)


def _add(live: Live, epoch: Epoch) -> None:
    for name, curve in CURVES.items():
        if math.isfinite(epoch[name]):
            live.log_metric(curve, epoch[name])
    live.next_step()
