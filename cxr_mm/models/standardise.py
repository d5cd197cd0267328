"""Standardise: an embedding of several parts → standard scores that no part drowns."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from cxr_mm.contracts.frozen import Frozen


class Part(Frozen):
    """One stretch of an embedding.

    `counted`: it counts words, and is weighed by how rare each is among the training studies.
    """

    length: int
    counted: bool = False


class Standardise(nn.Module):
    """An embedding at unit expected length, which its parts share evenly, so that a long part does
    not drown a short one.

    A part becomes standard scores; where it counts words, each word is weighed by its inverse
    document frequency (Spärck Jones 1972) and every note is brought to the same length.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, parts: Sequence[Part]) -> None:
        super().__init__()
        self.parts = tuple(parts)
        length = sum(part.length for part in parts)
        self.register_buffer("mean", torch.zeros(length))
        self.register_buffer("scale", torch.ones(length))
        self._learn(self.mean, [torch.ones(part.length) for part in self.parts])

    def fit(self, rows: Tensor) -> None:
        """Learn from the rows (N, D) of studies that have the modality."""
        if len(rows) > 1:
            spread = [_spread(own, part) for own, part in self._split(rows)]
            self._learn(rows.mean(0), spread)

    def _learn(self, mean: Tensor, spread: Sequence[Tensor]) -> None:
        share = [
            1.0 if part.counted else (part.length * len(self.parts)) ** 0.5 for part in self.parts
        ]
        self.scale.copy_(torch.cat([own * s for own, s in zip(spread, share, strict=True)]))
        means = [torch.zeros_like(m) if part.counted else m for m, part in self._split(mean)]
        self.mean.copy_(torch.cat(means))

    def _split(self, rows: Tensor) -> list[tuple[Tensor, Part]]:
        lengths = [part.length for part in self.parts]
        return list(zip(torch.split(rows, lengths, dim=-1), self.parts, strict=True))

    def forward(self, rows: Tensor) -> Tensor:
        """(B, D) → (B, D)."""
        scores = self._split((rows - self.mean) / self.scale)
        length = len(self.parts) ** -0.5
        return torch.cat(
            [
                nn.functional.normalize(own, dim=-1) * length if part.counted else own
                for own, part in scores
            ],
            dim=-1,
        )


def _spread(rows: Tensor, part: Part) -> Tensor:
    """What each dimension (N, D) of a part is divided by, before the part gets its length."""
    if part.counted:
        studies, with_word = len(rows), (rows > 0).sum(0)
        return 1 / (((1 + studies) / (1 + with_word)).log() + 1)
    deviation = rows.std(0)
    # A floor, so that a dimension that hardly varies does not become noise at full volume.
    return deviation.clamp(min=0.1 * float(deviation.mean()) + 1e-6)
