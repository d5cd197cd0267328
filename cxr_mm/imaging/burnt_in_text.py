"""Burnt-in text: words in the pixels of a radiograph, such as PORTABLE, SUPINE or a date.

A letter is a small component that stands out from its surroundings by thin strokes (top-hat
transform: Serra, Image Analysis and Mathematical Morphology, 1982); three of one height side by
side are a word. A side marker, R or L, is none.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from cxr_mm.imaging.geometry import shrink

SIDE = 512
"""Longest side in pixels at which letters are searched for."""
STROKE, CONTRAST = 7, 0.3
"""Pixels that a stroke is thinner than, and by how much of white it stands out."""
LOWEST, HIGHEST, WIDEST = 5, 28, 45
"""Pixels of a letter, or of several that touch."""
FILLED = 0.15
"""Least share of its box that a letter fills."""
LETTERS = 3
"""Letters of a word at least."""
TALLER, SHIFTED = 1.5, 0.3
"""Most that neighbouring letters differ in height (ratio), and in position (of the height)."""


@dataclass(frozen=True)
class Box:
    """Rows `top` to `bottom` and columns `left` to `right`, in pixels; the last are outside."""

    top: int
    bottom: int
    left: int
    right: int

    @property
    def height(self) -> int:
        return self.bottom - self.top


def has_text(pixels: NDArray[np.float32]) -> bool:
    """Whether a word is burnt into an image, white on dark or black on light.

    Args:
        pixels: float32 (H, W) in [0, 1], at least 3 pixels a side.
    """
    small = shrink(pixels, SIDE, smallest=3, reducing_gap=1.0)
    return any(find_words(image) for image in (small, 1 - small))


def find_words(image: NDArray[np.float32]) -> list[list[Box]]:
    """Letters of each bright word of an image (H, W) of at most `SIDE` pixels a side."""
    words: list[list[Box]] = []
    for letter in find_letters(image):
        joined = [word for word in words if any(_beside(letter, other) for other in word)]
        words = [word for word in words if word not in joined]
        words.append([letter, *(other for word in joined for other in word)])
    return [word for word in words if len(word) >= LETTERS]


def find_letters(image: NDArray[np.float32]) -> list[Box]:
    """Boxes of what may be a bright letter of an image (H, W)."""
    standing_out = image - ndimage.grey_opening(image, size=(STROKE, STROKE)) > CONTRAST
    labels, _ = ndimage.label(standing_out, structure=np.ones((3, 3)))
    boxes = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        filled = (labels[rows, columns] == number).mean()
        if LOWEST <= height <= HIGHEST and width <= min(WIDEST, 2 * height) and filled >= FILLED:
            boxes.append(Box(rows.start, rows.stop, columns.start, columns.stop))
    return boxes


def _beside(one: Box, other: Box) -> bool:
    """Whether two letters follow one another on a line."""
    small, tall = sorted((one.height, other.height))
    gap = max(one.left - other.right, other.left - one.right)
    apart = abs(one.top + one.bottom - other.top - other.bottom) / 2
    return tall <= TALLER * small and apart <= SHIFTED * tall and -1 <= gap <= tall
