"""CurveCallback: DVCLive curves while Lightning trains, kept exact over an interruption."""

from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
from dvclive import Live

from cxr_mm.training.curves import CURVES, Epoch, add_epoch, open_curves


class CurveCallback(L.Callback):  # type: ignore[misc]
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
            self._live = open_curves(self.folder)
            for epoch in self.history:
                add_epoch(self._live, epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        figures = {name: float(trainer.callback_metrics[name]) for name in CURVES}
        self.history.append({"epoch": float(trainer.current_epoch), **figures})
        if self._live is not None:
            add_epoch(self._live, self.history[-1])

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self._live is not None:
            self._live.end()
