"""The one image transform: radiograph → square → tensor; training, serving and monitoring share it.

Augmentation is a separate step that only training takes.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_mm.contracts.study import Study

MEAN, STD = 0.5, 0.5


def fit_square(pixels: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Fit a radiograph, aspect kept and the rest black, into a square.

    Args:
        pixels: float32 (H, W) in [0, 1].
        size: side of the square in pixels.

    Returns:
        uint8 (size, size).
    """
    height, width = pixels.shape
    scale = size / max(height, width)
    new = max(1, round(width * scale)), max(1, round(height * scale))
    small = Image.fromarray(np.ascontiguousarray(pixels, dtype=np.float32)).resize(
        new, Image.Resampling.BILINEAR
    )
    square = np.zeros((size, size), dtype=np.uint8)
    top, left = (size - new[1]) // 2, (size - new[0]) // 2
    square[top : top + new[1], left : left + new[0]] = np.rint(
        np.clip(np.asarray(small), 0.0, 1.0) * 255
    ).astype(np.uint8)
    return square


def fitted_study(study: Study, size: int) -> Study:
    """The study with its film fitted into the square, which is all that a model sees of it."""
    if study.image is None:
        return study
    square = fit_square(study.image, size).astype(np.float32) / np.float32(255)
    return replace(study, image=square)


def normalise(squares: NDArray[np.uint8] | Tensor) -> Tensor:
    """Squares (B, S, S) uint8 → tensor (B, 1, S, S) float32 in [-1, 1]."""
    if isinstance(squares, np.ndarray):  # a copy: the pixel cache may be read-only
        images = torch.from_numpy(squares.astype(np.float32))
    else:
        images = squares.to(torch.float32)
    return images.div_(255).sub_(MEAN).div_(STD).unsqueeze(1)
