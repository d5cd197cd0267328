"""History of the training of an image encoder, as history.json keeps it."""

from pathlib import Path
from typing import Any

from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.files import write_json

HISTORY = "history.json"
CHOSEN_BY = "val_calibrated_loss"
Epoch = dict[str, float]


def write_history(
    path: Path, params: TrainImageParams, history: list[Epoch], precision: str | None = None
) -> None:
    """Write the parameters of a training, its precision, its epochs and the best of them.

    A frozen encoder has no epoch and no precision of training.
    """
    best = min(history, key=lambda epoch: epoch[CHOSEN_BY], default=None)
    record: dict[str, Any] = {"params": params.model_dump(), "epochs": history}
    if best is not None:
        record |= {"precision": precision, "best_epoch": int(best["epoch"])}
    write_json(path, record)
