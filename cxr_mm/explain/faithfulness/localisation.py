"""Localisation: how much of an image attribution falls on the ground truth, and by chance alone.

Energy inside the mask: Wang et al. 2020 (Score-CAM, energy-based pointing game). Pointing game:
Zhang et al. 2018. IoU is taken at the mask's own area, so that no threshold has to be chosen.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Localisation:
    """Figures of one attribution against one mask, each in [0, 1]."""

    energy: float
    """Share of the attribution that lies inside the mask; 0 for an empty attribution."""
    pointing: float
    """1 where the highest value is inside the mask."""
    iou: float
    """Overlap of the mask with as many of the highest pixels as the mask has."""
    chance_energy: float
    """`energy` and `pointing` expected of a map that knows nothing: the mask's share of area."""
    chance_iou: float
    """`iou` expected of that map."""

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


def localise(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> Localisation:
    """Compare an attribution with the true area.

    Args:
        values: (H, W), 0 or more.
        mask: (H, W), True where the finding is; not empty.

    Raises:
        ValueError: the shapes differ or the mask is empty.
    """
    if values.shape != mask.shape:
        raise ValueError(f"attribution {values.shape} and mask {mask.shape} differ in shape")
    if not mask.any():
        raise ValueError("the mask is empty")
    area = float(mask.mean())
    total = float(values.sum())
    empty = total <= 0
    return Localisation(
        energy=0.0 if empty else float(values[mask].sum()) / total,
        pointing=0.0 if empty else float(mask.flat[int(values.argmax())]),
        iou=0.0 if empty else _iou(values, mask),
        chance_energy=area,
        chance_iou=area / (2 - area),
    )


def _iou(values: NDArray[np.float32], mask: NDArray[np.bool_]) -> float:
    count = int(mask.sum())
    highest = np.zeros(mask.size, dtype=bool)
    highest[np.argsort(values, axis=None, kind="stable")[-count:]] = True
    both = int(np.sum(highest & mask.ravel()))
    return both / (2 * count - both)
