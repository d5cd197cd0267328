"""Squares of a pixel cache as the tensors that an image encoder takes."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def image_batches(
    pixels: NDArray[np.uint8], pixel_rows: NDArray[np.int64], batch_size: int
) -> Iterator[Tensor]:
    """Normalised images (B, 1, S, S) of the rows, in order, as serving sees them."""
    for start in range(0, len(pixel_rows), batch_size):
        yield normalise(read_squares(pixels, pixel_rows[start : start + batch_size]))


def read_squares(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> Tensor:
    """Rows of the cache as a tensor (B, S, S) uint8 of its own."""
    return torch.from_numpy(np.ascontiguousarray(pixels[rows]))


MEAN, STD = 0.5, 0.5
"""Grey levels in [0, 1] become (grey - MEAN) / STD."""


def normalise(squares: NDArray[np.uint8] | Tensor) -> Tensor:
    """Squares (B, S, S) uint8 → tensor (B, 1, S, S) float32 in [-1, 1]."""
    if isinstance(squares, np.ndarray):  # a copy: the pixel cache may be read-only
        images = torch.from_numpy(squares.astype(np.float32))
    else:
        images = squares.to(torch.float32)
    return images.div_(255).sub_(MEAN).div_(STD).unsqueeze(1)
