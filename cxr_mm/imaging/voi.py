"""Stored values of a DICOM image → grey as a display shows it (DICOM PS3.4 N.2).

Modality LUT, then VOI LUT or window (PS3.3 C.11.2), then inversion of MONOCHROME1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from cxr_mm.imaging.geometry import shrink, shrink_radiograph

DETECTOR_BITS = (8, 10, 12, 14, 16)
LUMINANCE = np.asarray((0.299, 0.587, 0.114), np.float32)
COLOUR_SPREAD = 0.15
"""Difference between a pixel's channels, as a share of white, from which it is coloured."""
COLOURED = "The image is strongly coloured; it may not be a radiograph"
COLOURED_SHARE = 0.1
"""Share of coloured pixels from which an image is."""


def full_scale(largest: int) -> int:
    """White where `largest` is the largest value: 2^bits - 1 of the usual detector depths.

    Files of 16 bits often use 10, 12 or 14; scaled by 16 bits they would be nearly black.
    """
    bits = max(largest.bit_length(), 1)
    return int(2 ** min((b for b in DETECTOR_BITS if b >= bits), default=bits) - 1)


def luminance(colour: NDArray[Any]) -> NDArray[np.float32]:
    """Grey float32 (H, W) in [0, 1] of unsigned (H, W, 3)."""
    white = np.float32(np.iinfo(colour.dtype).max)
    return np.asarray(np.clip(colour.astype(np.float32) @ LUMINANCE / white, 0, 1))


def is_coloured(colour: NDArray[Any]) -> bool:
    """Whether unsigned (H, W, 3) is a colour picture rather than a grey one saved in colour."""
    step = max(1, max(colour.shape) // 256)
    red, green, blue = (colour[::step, ::step, channel].astype(np.float32) for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    threshold = COLOUR_SPREAD * np.iinfo(colour.dtype).max
    return bool(np.mean(spread > threshold) > COLOURED_SHARE)


LONGEST = 1024
"""Longer side in pixels of what is kept for viewing."""


@dataclass(frozen=True)
class Unwindowed:
    """An image's values before any window, and the window of its file.

    Args:
        values: (H, W), in the image's own units: after the modality LUT, or as a PNG or JPEG has
            them.
        centre: where the window's grey is in the middle.
        width: of the window, above 0.
        inverted: whether small values are white.
        padding: (H, W) whether a pixel lies outside the image; None where all are inside.
    """

    values: NDArray[Any]
    centre: float
    width: float
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Viewable:
    """A small copy of an image for viewing through any window.

    Args:
        values: float32 (H, W) with the longer side at most `LONGEST`, otherwise as `Unwindowed`.
        seen: uint8 (H, W), the image by the file's own VOI transform, which may not be linear.
        centre, width, inverted: those of the file, as `Unwindowed`; the nearest linear window if
            the file has none.
    """

    values: NDArray[np.float32]
    seen: NDArray[np.uint8]
    centre: float
    width: float
    inverted: bool

    @property
    def low(self) -> float:
        """The smallest value."""
        return float(self.values.min())

    @property
    def high(self) -> float:
        """The largest value."""
        return float(self.values.max())


def viewable(image: Unwindowed, pixels: NDArray[np.float32]) -> Viewable:
    """The small copy of an image.

    Args:
        image: its values.
        pixels: the same image by the file's own VOI transform, float32 (H, W) in [0, 1].
    """
    values = image.values.astype(np.float32)
    if image.padding is not None and image.padding.any() and not image.padding.all():
        inside = values[~image.padding]
        values[image.padding] = inside.max() if image.inverted else inside.min()
    seen = _bytes(shrink_radiograph(pixels, LONGEST))
    return Viewable(shrink(values, LONGEST), seen, image.centre, image.width, image.inverted)


def windowed(
    image: Viewable, centre: float, width: float, inverted: bool = False
) -> NDArray[np.uint8]:
    """The image through a window, uint8 (H, W).

    Args:
        image: what to look at.
        centre, width: of the window, in the image's own units.
        inverted: whether small values are white.
    """
    grey = linear(image.values, centre, width)
    return _bytes(1 - grey if inverted else grey)


def linear(values: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """The linear window of PS3.3 C.11.2.1.2: values → float32 in [0, 1], same shape.

    Of width 1 or less, it is a threshold.
    """
    grey = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.asarray(np.clip(grey, 0, 1), np.float32)


def spanning(low: float, high: float) -> tuple[float, float]:
    """Centre and width of the linear window that makes `low` black and `high` white."""
    return (low + high + 1) / 2, high - low + 1


def _bytes(grey: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(grey * 255).astype(np.uint8)


NO_WINDOW_PERCENTILES = (0.1, 99.9)
LARGEST = 1e30
"""Value beyond any image's, whose sums float32 still holds."""


def code_string(dataset: Dataset, keyword: str) -> str:
    """A code string in capitals; empty where it is absent or not one value."""
    value = dataset.get(keyword)
    return value.strip().upper() if isinstance(value, str) else ""


def as_seen(
    dataset: Dataset, stored: NDArray[Any]
) -> tuple[NDArray[np.float32], Unwindowed, list[str]]:
    """Pixels as a display would show them.

    Args:
        dataset: with its attributes, see the module.
        stored: (H, W), or unsigned (H, W, 3) in colour.

    Returns:
        float32 (H, W) in [0, 1], MONOCHROME2, padding black; the values before the window;
        warnings.

    Raises:
        ValueError: the rescaled values are infinite or no numbers.
    """
    if stored.ndim == 3:
        seen, white = luminance(stored), int(np.iinfo(stored.dtype).max)
        warned = [COLOURED] if is_coloured(stored) else []
        return seen, Unwindowed(seen * np.float32(white), *spanning(0, white)), warned
    padding = _padding(dataset, stored)
    values = np.asarray(apply_modality_lut(stored, dataset))
    if not (values.min() >= -LARGEST and values.max() <= LARGEST):  # false of NaN too
        raise ValueError("values that are no numbers")
    window = _window(dataset)
    if dataset.get("VOILUTSequence"):
        seen, window = _by_table(dataset, values)
    elif window:
        seen = _by_window(values, *window, function=code_string(dataset, "VOILUTFunction"))
    else:
        seen, window = _by_range(values, values[~padding])
    inverted = _is_inverted(dataset)
    if inverted:
        np.subtract(1, seen, out=seen)
    seen[padding] = 0
    return seen, Unwindowed(values, *window, inverted, padding), []


_Window = tuple[float, float]
"""Centre and width."""


def _by_table(dataset: Dataset, values: NDArray[Any]) -> tuple[NDArray[np.float32], _Window]:
    """Apply the VOI LUT; return also the window over its whole range."""
    entries, first = (int(n) for n in dataset.VOILUTSequence[0].LUTDescriptor[:2])
    table = np.asarray(apply_voi(np.arange(first, first + (entries or 2**16)), dataset))
    grey = table.astype(np.float32) / np.float32(full_scale(int(table.max())))
    index = np.clip(np.rint(values.astype(np.float64)) - first, 0, len(table) - 1)
    window = spanning(first, first + len(table) - 1)
    return np.asarray(grey[index.astype(np.int64)]), window


def _by_window(
    values: NDArray[Any], centre: float, width: float, function: str
) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Not pydicom's `apply_windowing`, which turns the image over where the rescale slope is negative.
    """
    x = values.astype(np.float32)
    if function == "SIGMOID":
        seen = 1 / (1 + np.exp(np.clip(-4 * (x - centre) / width, -60, 60)))
    elif function == "LINEAR_EXACT":
        seen = (x - centre) / width + 0.5
    else:
        return linear(x, centre, width)
    return np.asarray(np.clip(seen, 0, 1), np.float32)


def _by_range(values: NDArray[Any], inside: NDArray[Any]) -> tuple[NDArray[np.float32], _Window]:
    """From the percentile that becomes black to the one that becomes white."""
    sample = inside if inside.size else values.ravel()
    low, high = np.percentile(sample[:: max(1, sample.size // 10**6)], NO_WINDOW_PERCENTILES)
    span = max(float(high - low), 1e-6)
    seen = (values.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.asarray(np.clip(seen, 0, 1)), spanning(float(low), float(low) + span)


def _window(dataset: Dataset) -> _Window | None:
    """The first window, or None without a valid one."""
    centres = np.atleast_1d(dataset.get("WindowCenter") or [])
    widths = np.atleast_1d(dataset.get("WindowWidth") or [])
    if not (centres.size and widths.size):
        return None
    centre, width = float(centres[0]), float(widths[0])
    return (centre, width) if 0 < width < np.inf and np.isfinite(centre) else None


def _padding(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels outside the image (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _is_inverted(dataset: Dataset) -> bool:
    """Whether small values are white. Both attributes mean the same: never invert twice."""
    shape = code_string(dataset, "PresentationLUTShape")
    return dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
