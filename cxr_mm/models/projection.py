"""Projection: standard scores of one modality → hidden vector, for fusions that join these."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cxr_mm.models.standardise import Part


def projection(parts: Sequence[Part], hidden: int, dropout: float, narrow: int) -> nn.Sequential:
    """Layers from (B, D) to (B, hidden).

    Args:
        parts: what the D numbers are.
        hidden: width that comes out.
        dropout: of what goes in, unless it is narrowed.
        narrow: width of a layer before; 0 for none.
    """
    fold = _Fold(parts)
    width = fold.width
    layers: list[nn.Module] = [nn.Dropout(dropout)]
    if narrow:
        layers = [nn.Linear(width, narrow), nn.GELU()]
        width = narrow
    # Inputs have unit length: scaled back, so that a linear layer starts at its usual size.
    gain = _Gain(fold.width**0.5)
    return nn.Sequential(fold, gain, *layers, nn.Linear(width, hidden))


class _Fold(nn.Module):
    """Words in fewer cells, as if hashed so: a perceptron with a weight for every pair of words
    and hidden unit is slow and learns its studies by heart."""

    CELLS = 256

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        self.width = sum(self.CELLS if self._folds(part) else part.length for part in parts)

    def _folds(self, part: Part) -> bool:
        return part.counted and part.length > self.CELLS and part.length % self.CELLS == 0

    def forward(self, rows: Tensor) -> Tensor:
        split = torch.split(rows, [part.length for part in self.parts], dim=1)
        return torch.cat(
            [
                own.reshape(len(own), -1, self.CELLS).sum(1) if self._folds(part) else own
                for own, part in zip(split, self.parts, strict=True)
            ],
            dim=1,
        )


class _Gain(nn.Module):
    def __init__(self, gain: float) -> None:
        super().__init__()
        self.gain = gain

    def forward(self, rows: Tensor) -> Tensor:
        return rows * self.gain
