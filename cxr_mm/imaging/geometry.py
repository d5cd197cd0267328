"""The one image transform: radiograph → square → tensor; training, serving and monitoring share it.

Augmentation is a separate step that only training takes.
"""

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from cxr_mm.core.study import Study

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
    """The study with its image fitted into the square, which is all that a model sees of it."""
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


def content_box(shape: tuple[int, int], size: int) -> tuple[slice, slice]:
    """Rows and columns of the square that hold image, as `fit_square` places it.

    Args:
        shape: height and width of the image.
        size: side of the square.
    """
    scale = size / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    top, left = (size - height) // 2, (size - width) // 2
    return slice(top, top + height), slice(left, left + width)


def to_image(square: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """A map over the square (S, S) → over the image (H, W), without the black margin."""
    rows, columns = content_box(shape, square.shape[0])
    inside = np.ascontiguousarray(square[rows, columns], dtype=np.float32)
    bigger = Image.fromarray(inside).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(bigger, dtype=np.float32)


def mask_to_square(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """A mask over the image (H, W) → over the square (S, S) that the model sees."""
    return fit_square(mask.astype(np.float32), size) >= 128


def shrunk(radiograph: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """The radiograph (H, W) with its longer side at most `longest` pixels, aspect kept."""
    height, width = radiograph.shape
    scale = longest / max(height, width)
    if scale >= 1:
        return radiograph
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(radiograph, dtype=np.float32))
    return np.clip(np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32), 0, 1)
