"""Every resizing of an image, and the one geometric transform: radiograph → square.

Training, serving and monitoring share `fit_square`. No torch here: sandboxed decoders import it.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

AVERAGE, LINEAR, CUBIC = (
    Image.Resampling.BOX,
    Image.Resampling.BILINEAR,
    Image.Resampling.BICUBIC,
)
LONGEST = 640
"""Longer side, in pixels, of an image that is drawn."""
ROUGHLY = 1.0
"""`reducing_gap` of what is drawn on: whole pixels are averaged first, in half the time."""


def resize(
    pixels: NDArray[Any],
    shape: tuple[int, ...],
    method: Image.Resampling = LINEAR,
    reducing_gap: float | None = None,
) -> NDArray[Any]:
    """Resize an image, without regard to its aspect.

    Args:
        pixels: float32 or uint8 (H, W).
        shape: the new height and width.
        method: of resampling.
        reducing_gap: see `PIL.Image.Image.resize`.

    Returns:
        The same type, of the new shape.
    """
    image = Image.fromarray(np.ascontiguousarray(pixels))
    size = shape[1], shape[0]
    return np.asarray(image.resize(size, method, reducing_gap=reducing_gap), dtype=pixels.dtype)


def shrink(
    pixels: NDArray[np.float32],
    longest: int,
    smallest: int = 1,
    reducing_gap: float | None = None,
) -> NDArray[np.float32]:
    """Shrink an image, each new pixel the average of those that it covers; never enlarge it.

    Args:
        pixels: float32 (H, W), any range.
        longest: pixels of the longer side at most.
        smallest: pixels of the shorter side at least.
        reducing_gap: see `PIL.Image.Image.resize`.
    """
    if max(pixels.shape) <= longest:
        return pixels
    return resize(pixels, with_longest(pixels.shape, longest, smallest), AVERAGE, reducing_gap)


def shrink_radiograph(
    radiograph: NDArray[np.float32], longest: int, reducing_gap: float | None = None
) -> NDArray[np.float32]:
    """Shrink a radiograph (H, W) in [0, 1], which averaging may leave by a rounding error."""
    small = shrink(radiograph, longest, reducing_gap=reducing_gap)
    return small if small is radiograph else np.clip(small, 0, 1)


def copy_to_draw(radiograph: NDArray[np.float32]) -> NDArray[np.float32]:
    """The small copy of a radiograph (H, W) in [0, 1] that answers and maps are drawn on."""
    return shrink_radiograph(radiograph, LONGEST, ROUGHLY)


def grey(image: NDArray[np.float32], longest: int = LONGEST) -> NDArray[np.uint8]:
    """An image in [0, 1] as it is drawn, uint8 (H, W, 3), its longer side at most `longest`."""
    pixels = np.rint(shrink_radiograph(image, longest) * 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)


def thumbnail(picture: NDArray[np.uint8], longest: int) -> NDArray[np.uint8]:
    """Shrink a picture, uint8 (H, W) or (H, W, 3), by Pillow's own choice of size and method."""
    image = Image.fromarray(picture)
    image.thumbnail((longest, longest))
    return np.asarray(image)


def fit_square(pixels: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """Fit a radiograph, aspect kept and the rest black, into a square.

    Args:
        pixels: float32 (H, W) in [0, 1].
        size: side of the square in pixels.

    Returns:
        uint8 (size, size).
    """
    small = resize(np.asarray(pixels, np.float32), with_longest(pixels.shape, size))
    square = np.zeros((size, size), dtype=np.uint8)
    square[content_box(pixels.shape, size)] = np.rint(np.clip(small, 0.0, 1.0) * 255)
    return square


def content_box(shape: tuple[int, ...], size: int) -> tuple[slice, slice]:
    """Rows and columns of the square that `fit_square` fills with the image.

    Args:
        shape: height and width of the image.
        size: side of the square.
    """
    height, width = with_longest(shape, size)
    top, left = (size - height) // 2, (size - width) // 2
    return slice(top, top + height), slice(left, left + width)


Square = NDArray[np.uint8]
"""An image from `fit_square`, uint8 (S, S)."""


def image_area(square: Square) -> tuple[slice, slice]:
    """Rows and columns of the image in its square, without the black bars beside it."""
    down, across = (np.flatnonzero(square.any(axis=axis)) for axis in (1, 0))
    if not len(down):
        return slice(0, len(square)), slice(0, len(square))
    return slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)


def refitted(image: NDArray[Any], size: int) -> Square:
    """Fit grey levels from 0 to 255, any type (H, W), into a square again."""
    return fit_square(image.astype(np.float32) / np.float32(255), size)


def to_image(square: NDArray[np.float32], shape: tuple[int, int]) -> NDArray[np.float32]:
    """Map values over the square (S, S) back to the image (H, W), without the black margin."""
    inside = square[content_box(shape, square.shape[0])]
    return resize(np.asarray(inside, np.float32), shape)


def mask_to_square(mask: NDArray[np.bool_], size: int) -> NDArray[np.bool_]:
    """Map a mask over the image (H, W) to the square (S, S) that the model sees."""
    return fit_square(mask.astype(np.float32), size) >= 128


def with_longest(shape: tuple[int, ...], longest: int, smallest: int = 1) -> tuple[int, int]:
    """Height and width with this longer side, aspect kept, and the shorter of `smallest` at
    least."""
    scale = longest / max(shape)
    return max(smallest, round(shape[0] * scale)), max(smallest, round(shape[1] * scale))
