"""Stored values of a DICOM image → grey as a display shows it (DICOM PS3.4 N.2).

Modality LUT, then VOI LUT or window (PS3.3 C.11.2), then inversion of MONOCHROME1.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi

from cxr_mm.data.grey import COLOURED, full_scale, is_coloured, luminance

NO_WINDOW_PERCENTILES = (0.1, 99.9)


def code_string(dataset: Dataset, keyword: str) -> str:
    """A code string in capitals; empty where it is absent or not one value."""
    value = dataset.get(keyword)
    return value.strip().upper() if isinstance(value, str) else ""


def as_seen(dataset: Dataset, stored: NDArray[Any]) -> tuple[NDArray[np.float32], list[str]]:
    """Pixels as a display would show them.

    Args:
        dataset: with its attributes, see the module.
        stored: (H, W), or unsigned (H, W, 3) in colour.

    Returns:
        float32 (H, W) in [0, 1], MONOCHROME2, padding black; warnings.
    """
    if stored.ndim == 3:
        return luminance(stored), [COLOURED] if is_coloured(stored) else []
    padding = _padding(dataset, stored)
    values = np.asarray(apply_modality_lut(stored, dataset))
    window = _window(dataset)
    if dataset.get("VOILUTSequence"):
        seen = _by_table(dataset, values)
    elif window:
        seen = _by_window(values, *window, function=code_string(dataset, "VOILUTFunction"))
    else:
        seen = _by_range(values, values[~padding])
    if _is_inverted(dataset):
        np.subtract(1, seen, out=seen)
    seen[padding] = 0
    return seen, []


def _by_table(dataset: Dataset, values: NDArray[Any]) -> NDArray[np.float32]:
    entries, first = (int(n) for n in dataset.VOILUTSequence[0].LUTDescriptor[:2])
    table = np.asarray(apply_voi(np.arange(first, first + (entries or 2**16)), dataset))
    shown = table.astype(np.float32) / np.float32(full_scale(int(table.max())))
    place = np.clip(np.rint(values.astype(np.float64)) - first, 0, len(table) - 1)
    return np.asarray(shown[place.astype(np.int64)])


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
        seen = (x - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.asarray(np.clip(seen, 0, 1), np.float32)


def _by_range(values: NDArray[Any], inside: NDArray[Any]) -> NDArray[np.float32]:
    sample = inside if inside.size else values.ravel()
    low, high = np.percentile(sample[:: max(1, sample.size // 10**6)], NO_WINDOW_PERCENTILES)
    span = max(float(high - low), 1e-6)
    seen = (values.astype(np.float32) - np.float32(low)) / np.float32(span)
    return np.asarray(np.clip(seen, 0, 1))


def _window(dataset: Dataset) -> tuple[float, float] | None:
    """Centre and width of the first window, or None where there is none of any width."""
    centres = np.atleast_1d(dataset.get("WindowCenter") or [])
    widths = np.atleast_1d(dataset.get("WindowWidth") or [])
    if not (centres.size and widths.size) or float(widths[0]) <= 0:
        return None
    return float(centres[0]), float(widths[0])


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
