"""Squares → the tensor that every image encoder takes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

MEAN, STD = 0.5, 0.5
"""Grey levels in [0, 1] become (grey - MEAN) / STD."""


def normalise(squares: NDArray[np.uint8] | Tensor) -> Tensor:
    """Squares (B, S, S) uint8 → tensor (B, 1, S, S) float32 in [-1, 1]."""
    if isinstance(squares, np.ndarray):  # a copy: the pixel cache may be read-only
        images = torch.from_numpy(squares.astype(np.float32))
    else:
        images = squares.to(torch.float32)
    return images.div_(255).sub_(MEAN).div_(STD).unsqueeze(1)
