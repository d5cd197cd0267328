"""Film: between the square that the model sees and the film in its own aspect, there and back."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from cxr_mm.data.transform import fit_square


def content_box(shape: tuple[int, int], size: int) -> tuple[slice, slice]:
    """Rows and columns of the square that hold film, as `fit_square` places it.

    Args:
        shape: height and width of the film.
        size: side of the square.
    """
    scale = size / max(shape)
    height, width = (max(1, round(side * scale)) for side in shape)
    top, left = (size - height) // 2, (size - width) // 2
    return slice(top, top + height), slice(left, left + width)


def to_film(square: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """A map over the square (S, S) → over the film (H, W), without the black margin."""
    rows, columns = content_box(shape, square.shape[0])
    inside = np.ascontiguousarray(square[rows, columns], dtype=np.float32)
    bigger = Image.fromarray(inside).resize(shape[::-1], Image.Resampling.BILINEAR)
    return np.asarray(bigger, dtype=np.float32)


def mask_to_square(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """A mask over the film (H, W) → over the square (S, S) that the model sees."""
    return fit_square(mask.astype(np.float32), size) >= 128


def shrunk(film: NDArray[np.float32], longest: int) -> NDArray[np.float32]:
    """The film (H, W) with its longer side at most `longest` pixels, aspect kept."""
    height, width = film.shape
    scale = longest / max(height, width)
    if scale >= 1:
        return film
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = Image.fromarray(np.ascontiguousarray(film, dtype=np.float32))
    return np.clip(np.asarray(image.resize(size, Image.Resampling.BOX), dtype=np.float32), 0, 1)
