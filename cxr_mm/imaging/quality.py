"""Image quality statistics of one image, for monitoring; cheap enough for every image.

All are measured on a copy of at most 256 pixels a side, so that images of different sizes compare.
"""

import numpy as np
from numpy.typing import NDArray

from cxr_mm.imaging.geometry import shrink

SIDE = 256
QUALITY_NAMES = (
    "exposure",
    "contrast",
    "sharpness",
    "noise",
    "border",
    "inversion",
    "saturation",
    "aspect",
)
DARKEST, BRIGHTEST = 1 / 255, 254 / 255
FLAT = 0.01
"""Standard deviation below which a row or column at the edge counts as border."""


def image_quality(pixels: NDArray[np.float32]) -> dict[str, float]:
    """Statistics of an image, by name in the order of `QUALITY_NAMES`.

    - exposure: mean, 0 to 1.
    - contrast: 95th minus 5th percentile, 0 to 1.
    - sharpness: standard deviation of the Laplacian (Pech-Pacheco et al., ICPR 2000).
    - noise: standard deviation of white noise (Immerkær, CVIU 1996), in units of white.
    - border: share of the area in even bars along the edges.
    - inversion: mean of the upper corners minus that of the middle, -1 to 1; air is dark in
      MONOCHROME2, so a value well above 0 suggests that black and white are swapped.
    - saturation: share of pixels that are quite black or quite white, 0 to 1.
    - aspect: height / width.

    Args:
        pixels: float32 (H, W) in [0, 1], at least 3 pixels a side.
    """
    small = shrink(pixels, SIDE, smallest=3, reducing_gap=1.0)
    low, high = np.percentile(small, (5, 95))
    ends = np.mean((small <= DARKEST) | (small >= BRIGHTEST))
    values = (
        small.mean(),
        high - low,
        _sharpness(small),
        _noise(small),
        _border(small),
        _inversion(small),
        ends,
        pixels.shape[0] / pixels.shape[1],
    )
    return {name: float(value) for name, value in zip(QUALITY_NAMES, values, strict=True)}


def _sharpness(x: NDArray[np.float32]) -> float:
    centre = x[1:-1, 1:-1]
    around = x[:-2, 1:-1] + x[2:, 1:-1] + x[1:-1, :-2] + x[1:-1, 2:]
    return float(np.std(around - 4 * centre))


def _noise(x: NDArray[np.float32]) -> float:
    """Mean absolute response to the difference of two Laplacians, which edges hardly excite."""
    rows = x[:-2] - 2 * x[1:-1] + x[2:]
    response = rows[:, :-2] - 2 * rows[:, 1:-1] + rows[:, 2:]
    return float(np.mean(np.abs(response)) * np.sqrt(np.pi / 2) / 6)


def _border(x: NDArray[np.float32]) -> float:
    inner = 1.0
    for axis in (0, 1):
        lively = np.flatnonzero(x.std(axis=1 - axis) > FLAT)
        inner *= (lively[-1] - lively[0] + 1) / x.shape[axis] if lively.size else 0.0
    return 1 - inner


def _inversion(x: NDArray[np.float32]) -> float:
    height, width = x.shape
    down, across = max(1, height // 8), max(1, width // 8)
    corners = np.concatenate((x[:down, :across], x[:down, -across:]), axis=None)
    middle = x[height // 4 : 3 * height // 4 + 1, 3 * width // 8 : 5 * width // 8 + 1]
    return float(corners.mean() - middle.mean())
