"""Resume: where an interrupted training keeps its checkpoints, and which of them still fit."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.files import to_json

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
