"""Stored values of a DICOM image → grey as a display shows it (DICOM PS3.4 N.2).

Modality LUT, then VOI LUT or window (PS3.3 C.11.2), then inversion of MONOCHROME1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from cxr_mm.data.grey import COLOURED, full_scale, is_coloured, luminance
from cxr_mm.data.window import Unwindowed, linear, spanning

NO_WINDOW_PERCENTILES = (0.1, 99.9)
LARGEST = 1e30
"""Value beyond any film's, whose sums float32 still holds."""


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
    """Through the VOI LUT; and the window over all that it tells apart."""
    entries, first = (int(n) for n in dataset.VOILUTSequence[0].LUTDescriptor[:2])
    table = np.asarray(apply_voi(np.arange(first, first + (entries or 2**16)), dataset))
    shown = table.astype(np.float32) / np.float32(full_scale(int(table.max())))
    place = np.clip(np.rint(values.astype(np.float64)) - first, 0, len(table) - 1)
    window = spanning(first, first + len(table) - 1)
    return np.asarray(shown[place.astype(np.int64)]), window


def _by_window(
    values: NDArray[Any], centre: float, width: float, function: str
) -> NDArray[np.float32]:
    """PS3.3 C.11.2.1.2 and C.11.2.1.3.

    Not pydicom's `apply_windowing`, which turns the film over where the rescale slope is negative.
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
    """The first window, or None where there is none of any width."""
    centres = np.atleast_1d(dataset.get("WindowCenter") or [])
    widths = np.atleast_1d(dataset.get("WindowWidth") or [])
    if not (centres.size and widths.size):
        return None
    centre, width = float(centres[0]), float(widths[0])
    return (centre, width) if 0 < width < np.inf and np.isfinite(centre) else None


def _padding(dataset: Dataset, stored: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels outside the film (PS3.3 C.7.5.1.1.2)."""
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, np.bool_)
    limit = dataset.get("PixelPaddingRangeLimit", value)
    low, high = sorted((int(value), int(limit)))
    return np.asarray((stored >= low) & (stored <= high))


def _is_inverted(dataset: Dataset) -> bool:
    """Whether small values are white. Both attributes say the same thing: never invert twice."""
    shape = code_string(dataset, "PresentationLUTShape")
    return dataset.PhotometricInterpretation == "MONOCHROME1" or shape == "INVERSE"
