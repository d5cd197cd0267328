"""Burnt-in text: words in the pixels of a radiograph, such as PORTABLE, SUPINE or a date.

A letter is a small component that stands out from its surroundings by thin strokes (top-hat
transform: Serra, Image Analysis and Mathematical Morphology, 1982); three of one height side by
side are a word. A side marker, R or L, is none. A word that is masked is filled from its edge
inwards (Telea, Journal of Graphics Tools 2004; 9:23).
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cxr_mm.imaging.geometry import CUBIC, Square, fit_square, resize, with_longest

Radiograph = NDArray[np.float32]
SIDE = 512
"""Longest side in pixels at which letters are searched for; a smaller image is enlarged, so that
letters that touch are told apart."""
MOST = 2
"""Times that an image is enlarged at most: grains of a tiny one would become letters."""
STROKE = 9
"""Pixels that a stroke is thinner than."""
CONTRASTS = (0.15, 0.2, 0.3)
"""By how much of white a stroke stands out. Small letters touch at a low contrast, faint ones are
missing at a high one."""
LOWEST, HIGHEST, WIDEST = 5, 28, 45
"""Pixels of a letter, or of several that touch."""
FILLED = 0.15
"""Least share of its box that a letter fills."""
LETTERS = 3
"""Letters of a word at least."""
TALLER, SHIFTED = 1.5, 0.3
"""Most that neighbouring letters differ in height (ratio), and in position (of the height)."""
MARGIN = 0.25
"""Margin around a word that is masked with it, of a letter's height; its edge is blurred."""
REACH = 5
"""Pixels around a masked pixel that its fill is taken from."""


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


def has_text(pixels: Radiograph) -> bool:
    """Whether a word is burnt into an image, white on dark or black on light.

    Args:
        pixels: float32 (H, W) in [0, 1], at least 3 pixels a side.
    """
    return bool(_words(_searchable(pixels)))


def model_square(pixels: Radiograph, size: int, *, mask_text: bool) -> Square:
    """Fit a radiograph into the square that a model sees; training and serving share it.

    Args:
        pixels: float32 (H, W) in [0, 1].
        size: side of the square in pixels.
        mask_text: whether burnt-in text is replaced by what surrounds it.

    Returns:
        uint8 (size, size).
    """
    return fit_square(without_text(pixels) if mask_text else pixels, size)


def without_text(pixels: Radiograph) -> Radiograph:
    """Replace each word that is found by what surrounds it; other pixels stay to the bit.

    Args:
        pixels: float32 (H, W) in [0, 1], at least 3 pixels a side.
    """
    import cv2  # slow to import, and not every start needs it

    image = _searchable(pixels)
    mask = _text_mask(image)
    if not mask.any():
        return pixels
    grey = np.rint(image * 255).astype(np.uint8)  # of floats OpenCV's fill is noise
    filled = cv2.inpaint(grey, mask, REACH, cv2.INPAINT_TELEA).astype(np.float32) / np.float32(255)
    fill = np.clip(resize(filled, pixels.shape), 0, 1)
    return np.where(_stretched(mask, pixels.shape), fill, pixels)


def text_mask(pixels: Radiograph) -> NDArray[np.bool_]:
    """Where `without_text` replaces pixels of an image, bool (H, W)."""
    return _stretched(_text_mask(_searchable(pixels)), pixels.shape)


def _text_mask(image: Radiograph) -> NDArray[np.uint8]:
    mask = np.zeros(image.shape, np.uint8)
    for word in _words(image):
        mask[_around(word)] = 1
    return mask


def _stretched(mask: NDArray[np.uint8], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    stretched: NDArray[np.bool_] = resize(mask.astype(np.float32), shape) > 0
    return stretched


def find_words(image: Radiograph) -> list[list[Box]]:
    """Letters of each bright word of an image (H, W) of at most `SIDE` pixels a side; a word that
    stands out by more than one of the contrasts is found again at each."""
    return [word for letters in find_letters(image) for word in _joined(letters)]


def find_letters(image: Radiograph) -> list[list[Box]]:
    """Boxes of what may be a bright letter of an image (H, W), for each of `CONTRASTS`."""
    import cv2

    kernel = np.ones((STROKE, STROKE), np.uint8)
    standing_out = cv2.morphologyEx(image, cv2.MORPH_TOPHAT, kernel)
    return [_letters((standing_out > contrast).astype(np.uint8)) for contrast in CONTRASTS]


def _letters(strokes: NDArray[np.uint8]) -> list[Box]:
    import cv2

    _, _, found, _ = cv2.connectedComponentsWithStats(strokes, connectivity=8)
    left, top, width, height, area = found[1:].T  # the first is the background
    letter = (height >= LOWEST) & (height <= HIGHEST) & (area >= FILLED * width * height)
    letter &= width <= np.minimum(WIDEST, 2 * height)
    edges = np.stack([top, top + height, left, left + width], axis=1)[letter]
    return [Box(*map(int, row)) for row in edges]


def _joined(letters: list[Box]) -> list[list[Box]]:
    words: list[list[Box]] = []
    for letter in letters:
        joined = [word for word in words if any(_beside(letter, other) for other in word)]
        words = [word for word in words if word not in joined]
        words.append([letter, *(other for word in joined for other in word)])
    return [word for word in words if len(word) >= LETTERS]


def _beside(one: Box, other: Box) -> bool:
    """Whether two letters follow one another on a line."""
    small, tall = sorted((one.height, other.height))
    gap = max(one.left - other.right, other.left - one.right)
    apart = abs(one.top + one.bottom - other.top - other.bottom) / 2
    return tall <= TALLER * small and apart <= SHIFTED * tall and -1 <= gap <= tall


def _searchable(pixels: Radiograph) -> Radiograph:
    """The image with a longest side of `SIDE` pixels, enlarged `MOST` times at most."""
    shape = with_longest(pixels.shape, min(SIDE, MOST * max(pixels.shape)), smallest=3)
    enlarged: Radiograph = resize(pixels, shape, CUBIC, reducing_gap=1.0)
    return np.clip(enlarged, 0, 1)


def _words(image: Radiograph) -> list[list[Box]]:
    """Bright and dark words."""
    return [*find_words(image), *find_words(1 - image)]


def _around(word: list[Box]) -> tuple[slice, slice]:
    """Rows and columns of a word with its margin."""
    top, bottom = min(b.top for b in word), max(b.bottom for b in word)
    left, right = min(b.left for b in word), max(b.right for b in word)
    margin = 2 + round(MARGIN * max(b.height for b in word))
    return (
        slice(max(top - margin, 0), bottom + margin),
        slice(max(left - margin, 0), right + margin),
    )
