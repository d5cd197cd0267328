"""Dataset: squares straight from the memory-mapped pixel cache, a whole batch at a time."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxr_mm.data.cache import open_pixels
from cxr_mm.data.transform import normalise

LabelledSquares = tuple[Tensor, Tensor]
"""Squares (B, S, S) uint8 and labels (B, F) float32, NaN where missing."""


class PixelDataset(Dataset[LabelledSquares]):
    """Squares and labels of chosen rows of a pixel cache.

    Give `as_it_is` to the DataLoader as `collate_fn`: a batch is read in one go and comes whole.

    Args:
        path: the pixel cache; opened where it is read, so that worker processes share its pages.
        pixel_rows: (n,) rows of the cache.
        labels: (n, F) 1, 0 or NaN.
    """

    def __init__(
        self, path: Path, pixel_rows: NDArray[np.int64], labels: NDArray[np.float32]
    ) -> None:
        self.path, self.pixel_rows, self.labels = path, pixel_rows, labels
        self._pixels: NDArray[np.uint8] | None = None

    def __len__(self) -> int:
        return len(self.pixel_rows)

    def __getitem__(self, index: int) -> LabelledSquares:
        """One study: square (S, S) and labels (F,)."""
        squares, labels = self.__getitems__([index])
        return squares[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> LabelledSquares:
        if self._pixels is None:
            self._pixels = open_pixels(self.path)
        squares = read_squares(self._pixels, self.pixel_rows[indices])
        return squares, torch.from_numpy(self.labels[indices])

    def __getstate__(self) -> dict[str, Any]:
        # A memory map would be sent to a worker process pixel by pixel.
        return {**self.__dict__, "_pixels": None}


def as_it_is(batch: Any) -> Any:
    """Collate function for batches that are read whole."""
    return batch


def image_batches(
    pixels: NDArray[np.uint8], pixel_rows: NDArray[np.int64], batch_size: int
) -> Iterator[Tensor]:
    """Normalised images (B, 1, S, S) of the rows, in order, as serving sees them."""
    for start in range(0, len(pixel_rows), batch_size):
        yield normalise(read_squares(pixels, pixel_rows[start : start + batch_size]))


def read_squares(pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> Tensor:
    """Rows of the cache as a tensor (B, S, S) uint8 of its own."""
    return torch.from_numpy(np.ascontiguousarray(pixels[rows]))
