"""Squares and labels of a pixel cache, in batches, for the training of an image encoder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from cxr_mm.data.pixel_cache import read_rows

LabelledSquares = tuple[Tensor, Tensor]
"""Squares (B, S, S) uint8 and labels (B, F) float32, NaN where missing."""


class PixelDataset(Dataset[LabelledSquares]):
    """Squares and labels of chosen rows of a pixel cache.

    Give `identity_collate` to the DataLoader as `collate_fn`: a batch is read in one go and comes
    whole.

    Args:
        path: the pixel cache, of which one batch at a time is in memory.
        pixel_rows: (n,) rows of the cache.
        labels: (n, F) 1, 0 or NaN.
    """

    def __init__(
        self, path: Path, pixel_rows: NDArray[np.int64], labels: NDArray[np.float32]
    ) -> None:
        self.path, self.pixel_rows, self.labels = path, pixel_rows, labels

    def __len__(self) -> int:
        return len(self.pixel_rows)

    def __getitem__(self, index: int) -> LabelledSquares:
        """One study: square (S, S) and labels (F,)."""
        squares, labels = self.__getitems__([index])
        return squares[0], labels[0]

    def __getitems__(self, indices: Sequence[int]) -> LabelledSquares:
        squares = read_rows(self.path, self.pixel_rows[indices])
        return torch.from_numpy(squares), torch.from_numpy(self.labels[indices])


def identity_collate(batch: Any) -> Any:
    """Collate function for batches that are read whole."""
    return batch
