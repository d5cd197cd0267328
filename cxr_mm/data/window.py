"""Viewing windows: a film's values before any window, and what a window makes of them.

The window is the linear one of DICOM PS3.3 C.11.2.1.2. A person looks through it; a model never
does: it sees the film as the file says.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

LONGEST = 1024
"""Longer side in pixels of what is kept for viewing."""


@dataclass(frozen=True)
class Unwindowed:
    """A film's values before any window, and the window that its file states.

    Args:
        values: (H, W), in the film's own units: after the modality LUT, or as a PNG or JPEG has
            them.
        centre: where the window's grey is in the middle.
        width: of the window, above 0.
        inverted: whether small values are white.
        padding: (H, W) whether a pixel lies outside the film; None where all are inside.
    """

    values: NDArray[Any]
    centre: float
    width: float
    inverted: bool = False
    padding: NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Viewable:
    """A small copy of a film to look at through any window.

    Args:
        values: float32 (H, W) with the longer side at most `LONGEST`, otherwise as `Unwindowed`.
        seen: uint8 (H, W), the film as the file says, which may be no linear window.
        centre, width, inverted: what the file states, as `Unwindowed`; the nearest linear window
            where the file states none.
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


def viewable(film: Unwindowed, pixels: NDArray[np.float32]) -> Viewable:
    """The small copy of a film.

    Args:
        film: its values.
        pixels: the same film as the file says, float32 (H, W) in [0, 1].
    """
    values = film.values.astype(np.float32)
    if film.padding is not None and film.padding.any() and not film.padding.all():
        inside = values[~film.padding]
        values[film.padding] = inside.max() if film.inverted else inside.min()
    seen = _bytes(np.clip(_shrunk(pixels), 0, 1))
    return Viewable(_shrunk(values), seen, film.centre, film.width, film.inverted)


def windowed(
    film: Viewable, centre: float, width: float, inverted: bool = False
) -> NDArray[np.uint8]:
    """The film through a window, uint8 (H, W).

    Args:
        film: what to look at.
        centre, width: of the window, in the film's own units.
        inverted: whether small values are white.
    """
    shown = linear(film.values, centre, width)
    return _bytes(1 - shown if inverted else shown)


def linear(values: NDArray[np.float32], centre: float, width: float) -> NDArray[np.float32]:
    """The linear window of PS3.3 C.11.2.1.2: values → float32 in [0, 1], same shape.

    Of width 1 or less, it is a threshold.
    """
    shown = (values - (centre - 0.5)) / max(width - 1, 1e-6) + 0.5
    return np.asarray(np.clip(shown, 0, 1), np.float32)


def spanning(low: float, high: float) -> tuple[float, float]:
    """Centre and width of the linear window that makes `low` black and `high` white."""
    return (low + high + 1) / 2, high - low + 1


def _bytes(shown: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.rint(shown * 255).astype(np.uint8)


def _shrunk(film: NDArray[np.float32]) -> NDArray[np.float32]:
    """Longer side at most `LONGEST`, each pixel the average of those it covers."""
    height, width = film.shape
    scale = LONGEST / max(height, width)
    if scale >= 1:
        return film
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(film))
    return np.asarray(image.resize(size, Image.Resampling.BOX), np.float32)
