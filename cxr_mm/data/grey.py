"""Grey values: what is white at a bit depth, and colour → luminance (ITU-R BT.601)."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

DETECTOR_BITS = (8, 10, 12, 14, 16)
LUMINANCE = np.asarray((0.299, 0.587, 0.114), np.float32)
COLOUR_SPREAD = 0.15
"""Difference between a pixel's channels, as a share of white, from which it is coloured."""
COLOURED = "The image is strongly coloured; it may not be a radiograph"
COLOURED_SHARE = 0.1
"""Share of coloured pixels from which an image is."""


def full_scale(largest: int) -> int:
    """White where `largest` is the largest value: 2^bits - 1 of the usual detector depths.

    Files of 16 bits often hold 10, 12 or 14; taken at their word they would be nearly black.
    """
    bits = max(largest.bit_length(), 1)
    return int(2 ** min((b for b in DETECTOR_BITS if b >= bits), default=bits) - 1)


def luminance(colour: NDArray[Any]) -> NDArray[np.float32]:
    """Grey float32 (H, W) in [0, 1] of unsigned (H, W, 3)."""
    white = np.float32(np.iinfo(colour.dtype).max)
    return np.asarray(np.clip(colour.astype(np.float32) @ LUMINANCE / white, 0, 1))


def is_coloured(colour: NDArray[Any]) -> bool:
    """Whether unsigned (H, W, 3) is a picture in colour rather than a film saved as one."""
    step = max(1, max(colour.shape) // 256)
    red, green, blue = (colour[::step, ::step, channel].astype(np.float32) for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    threshold = COLOUR_SPREAD * np.iinfo(colour.dtype).max
    return bool(np.mean(spread > threshold) > COLOURED_SHARE)
