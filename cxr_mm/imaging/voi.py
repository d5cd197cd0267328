"""Stored values of a DICOM image → grey as a display shows it (DICOM PS3.4 N.2).

Modality LUT, then VOI LUT or window (PS3.3 C.11.2), then inversion of MONOCHROME1.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from cxr_mm.imaging.attributes import Attributes, code_string, from_cells
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


def robust_white(values: NDArray[Any]) -> int:
    """White of an image that states no range: that of all pixels but the thousandth brightest.

    A defect pixel would otherwise make the rest nearly black.
    """
    return full_scale(int(np.ceil(np.percentile(_sample(values), NO_WINDOW_PERCENTILES[1]))))


def luminance(colour: NDArray[Any], white: int = 255) -> NDArray[np.float32]:
    """Grey float32 (H, W) in [0, 1] of unsigned (H, W, 3)."""
    return np.asarray(np.clip(colour.astype(np.float32) @ LUMINANCE / np.float32(white), 0, 1))


def is_coloured(colour: NDArray[Any], white: int = 255) -> bool:
    """Whether unsigned (H, W, 3) is a colour picture rather than a grey one saved in colour."""
    step = max(1, max(colour.shape) // 256)
    red, green, blue = (colour[::step, ::step, channel].astype(np.float32) for channel in range(3))
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    threshold = COLOUR_SPREAD * white
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


def as_seen(attributes: Attributes, stored: NDArray[Any]) -> tuple[NDArray[np.float32], Unwindowed]:
    """Pixels as a display would show them.

    Args:
        attributes: complete; what is read leniently here is added to its warnings.
        stored: values (H, W), or unsigned (H, W, 3) in colour.

    Returns:
        float32 (H, W) in [0, 1], MONOCHROME2, padding black; the values before the window.

    Raises:
        ValueError: the rescaled values are infinite or no numbers.
    """
    if stored.ndim == 3:
        return _colour_as_seen(attributes, stored)
    padding = _padding(attributes, stored)
    values = _rescaled(attributes, stored)
    if not (values.min() >= -LARGEST and values.max() <= LARGEST):  # false of NaN too
        raise ValueError("values that are no numbers")
    inside = values if padding is None else values[~padding]
    seen, window = _displayed(attributes, values, inside)
    inverted = _is_inverted(attributes.dataset)
    if inverted:
        np.subtract(1, seen, out=seen)
    if padding is not None:
        seen[padding] = 0
    return seen, Unwindowed(values, *window, inverted, padding)


def _colour_as_seen(
    attributes: Attributes, stored: NDArray[Any]
) -> tuple[NDArray[np.float32], Unwindowed]:
    white = max(full_scale(int(stored.max())), 255)
    seen = luminance(stored, white)
    if is_coloured(stored, white):
        attributes.warnings.append(COLOURED)
    return seen, Unwindowed(seen * np.float32(white), *spanning(0, white))


def _rescaled(attributes: Attributes, stored: NDArray[Any]) -> NDArray[Any]:
    """Apply the modality LUT, or rescale (PS3.3 C.11.1)."""
    signed = bool(attributes.dataset.PixelRepresentation)
    for table in attributes.tables("ModalityLUTSequence", signed=signed):
        return table.apply(stored)
    slope = attributes.number("RescaleSlope", 1.0) or 1.0
    intercept = attributes.number("RescaleIntercept", 0.0)
    if slope == 1 and intercept == 0:
        return stored
    return stored.astype(np.float64) * slope + intercept


_Window = tuple[float, float]
"""Centre and width."""
_Seen = tuple[NDArray[np.float32], _Window]


def _displayed(attributes: Attributes, values: NDArray[Any], inside: NDArray[Any]) -> _Seen:
    """Apply the VOI LUT, else the window if it fits the values, else the values' own range."""
    signed = bool(attributes.dataset.PixelRepresentation) or values.min() < 0
    for table in attributes.tables("VOILUTSequence", signed=bool(signed)):
        grey = table.apply(values).astype(np.float32)
        grey /= np.float32(full_scale(int(table.entries.max())))
        return grey, spanning(table.first, table.first + len(table.entries) - 1)
    window = _window(attributes)
    if window and _fits(inside, *window):
        function = code_string(attributes.dataset, "VOILUTFunction")
        return _by_window(values, *window, function=function), window
    if window:
        attributes.warnings.append(UNFIT_WINDOW)
    return _by_range(values, inside)


UNFIT_WINDOW = "The window of the file does not fit its values; their own range is shown instead"
CLIPPED = 0.5
"""Share of pixels beyond a window much narrower than their range, from which on it is another's."""
LEAST_FILLED, LEAST_COVERED = 1 / 12, 1 / 4
"""A window made for another depth: the values fill less of it, or it covers less of them."""


def _fits(inside: NDArray[Any], centre: float, width: float) -> bool:
    sample = _sample(inside)
    if not sample.size:
        return True
    low, high = np.percentile(sample, NO_WINDOW_PERCENTILES)
    filled, covered = (high - low) / width, width / max(high - low, 1e-6)
    beyond = np.mean(np.abs(sample - centre) > width / 2)
    if covered < LEAST_COVERED and beyond > CLIPPED:
        return False
    return bool(filled >= LEAST_FILLED or low == high)


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


def _by_range(values: NDArray[Any], inside: NDArray[Any]) -> _Seen:
    """From the percentile that becomes black to the one that becomes white."""
    low, high = np.percentile(_sample(inside if inside.size else values), NO_WINDOW_PERCENTILES)
    span = max(float(high - low), 1e-6)
    seen = (values.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.asarray(np.clip(seen, 0, 1)), spanning(float(low), float(low) + span)


def _sample(values: NDArray[Any]) -> NDArray[Any]:
    return values.ravel()[:: max(1, values.size // 10**6)]


def _window(attributes: Attributes) -> _Window | None:
    """The first window, or None without a valid one."""
    centre = attributes.number("WindowCenter", np.nan)
    width = attributes.number("WindowWidth", np.nan)
    return (centre, width) if np.isfinite(centre) and width > 0 else None


def _padding(attributes: Attributes, stored: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Pixels outside the image (PS3.3 C.7.5.1.1.2), None where the file names none; the value is
    signed where the image is."""
    value = attributes.numbers("PixelPaddingValue")
    if not value:
        return None
    limit = attributes.number("PixelPaddingRangeLimit", value[0])
    ends = from_cells(np.asarray([value[0], limit]).astype(np.int64), attributes.dataset)
    return np.asarray((stored >= ends.min()) & (stored <= ends.max()))


def _is_inverted(dataset: Dataset) -> bool:
    """Whether small values are white. Both attributes mean the same: never invert twice."""
    shape = code_string(dataset, "PresentationLUTShape")
    return dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
