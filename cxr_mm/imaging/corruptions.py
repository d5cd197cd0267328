"""Common corruptions of a radiograph: how it was exposed, exported or stored, not what it shows.

Kinds and five levels follow MedMNIST-C for chest radiographs (Di Salvo et al. 2024,
arXiv:2406.17536), itself after ImageNet-C (Hendrycks and Dietterich, ICLR 2019), at a side of 224
pixels. Resolution down to 64 pixels, crop, rotation, border and burnt-in letters are added.
"""

from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from cxr_mm.imaging.geometry import LINEAR, Square, fit_square, image_area, resize, shrink

Radiograph = NDArray[np.float32]
"""float32 (H, W) in [0, 1]."""
Random = np.random.Generator
LEVELS = (1, 2, 3, 4, 5)
WORDS = ("PORTABLE", "AP ERECT", "SUPINE", "L", "R", "10:45", "WARD 5", "20/11/2018", "REPEAT")
LETTER_HEIGHT = 0.06
"""Share of the longer side."""


def resolution(image: Radiograph, side: float, random: Random) -> Radiograph:
    """Store with `side` pixels on the longer side, then enlarge again."""
    del random
    stored = shrink(image, round(side))
    return np.asarray(resize(stored, image.shape), np.float32)


def blur(image: Radiograph, sigma: float, random: Random) -> Radiograph:
    """Blur by a Gaussian of `sigma` pixels where the longer side has 224."""
    del random
    return np.asarray(gaussian_filter(image, sigma * max(image.shape) / 224), np.float32)


def noise(image: Radiograph, deviation: float, random: Random) -> Radiograph:
    """Add white noise."""
    return image + random.normal(0, deviation, image.shape).astype(np.float32)


def jpeg(image: Radiograph, quality: float, random: Random) -> Radiograph:
    """Compress as JPEG of a quality from 1 to 95."""
    del random
    stream = BytesIO()
    Image.fromarray(_grey_levels(image)).save(stream, "JPEG", quality=round(quality))
    return np.asarray(Image.open(stream), np.float32) / np.float32(255)


def gamma(image: Radiograph, change: float, random: Random) -> Radiograph:
    """Raise to the power 1 + `change` or 1 - `change`."""
    return image ** np.float32(1 + _either(change, random))


def contrast(image: Radiograph, change: float, random: Random) -> Radiograph:
    """Multiply the deviations from the mean by 1 + `change` or 1 - `change`."""
    mean = image.mean(dtype=np.float32)
    changed: Radiograph = mean + (image - mean) * np.float32(1 + _either(change, random))
    return changed


def exposure(image: Radiograph, change: float, random: Random) -> Radiograph:
    """Multiply by 1 + `change` or 1 - `change`."""
    return image * np.float32(1 + _either(change, random))


def crop(image: Radiograph, share: float, random: Random) -> Radiograph:
    """Cut off a `share` of each side's length, at random ends."""
    size = [round(side * (1 - share)) for side in image.shape]
    top, left = (random.integers(0, s - n + 1) for s, n in zip(image.shape, size, strict=True))
    return image[top : top + size[0], left : left + size[1]]


def rotation(image: Radiograph, degrees: float, random: Random) -> Radiograph:
    """Turn by so many degrees to either side; the corners become black."""
    turned = Image.fromarray(image).rotate(_either(degrees, random), LINEAR)
    return np.asarray(turned, np.float32)


def border(image: Radiograph, share: float, random: Random) -> Radiograph:
    """Put a black or white frame around it, a `share` of each side wide."""
    pad = [(round(side * share),) * 2 for side in image.shape]
    return np.pad(image, pad, constant_values=float(random.integers(2)))


def letters(image: Radiograph, words: float, random: Random) -> Radiograph:
    """Burn so many words in near the edges, white or black."""
    drawn = Image.fromarray(_grey_levels(image))
    pen, longest = ImageDraw.Draw(drawn), max(image.shape)
    font = ImageFont.load_default(LETTER_HEIGHT * longest)
    for word in random.choice(WORDS, round(words)):
        at = random.random(2) * 0.9
        edge = random.integers(2)
        at[edge] = random.choice((0.01, 0.97 - LETTER_HEIGHT))
        place = at[0] * drawn.width * 0.8, at[1] * drawn.height
        pen.text(place, str(word), fill=255 * int(random.random() < 0.8), font=font)
    return np.asarray(drawn, np.float32) / np.float32(255)


def _either(value: float, random: Random) -> float:
    return value if random.random() < 0.5 else -value


def _grey_levels(image: Radiograph) -> Square:
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True)
class Corruption:
    """One kind: its function, and the second argument of the function at each level."""

    apply: Callable[[Radiograph, float, Random], Any]
    strengths: tuple[float, float, float, float, float]


CORRUPTIONS = {
    "resolution": Corruption(resolution, (160, 128, 96, 80, 64)),
    "blur": Corruption(blur, (0.8, 1.1, 1.4, 1.7, 2.0)),
    "noise": Corruption(noise, (0.04, 0.08, 0.12, 0.18, 0.26)),
    "jpeg": Corruption(jpeg, (50, 30, 15, 10, 7)),
    "gamma": Corruption(gamma, (0.1, 0.2, 0.3, 0.4, 0.6)),
    "contrast": Corruption(contrast, (0.1, 0.2, 0.3, 0.4, 0.6)),
    "exposure": Corruption(exposure, (0.1, 0.2, 0.3, 0.4, 0.5)),
    "crop": Corruption(crop, (0.05, 0.1, 0.15, 0.2, 0.25)),
    "rotation": Corruption(rotation, (3, 6, 9, 12, 15)),
    "border": Corruption(border, (0.03, 0.06, 0.09, 0.12, 0.15)),
    "letters": Corruption(letters, (1, 2, 3, 5, 8)),
}


def corrupt(square: Square, kind: str, level: int, random: Random) -> Square:
    """Corrupt the image in its square.

    Args:
        square: uint8 (S, S) from `fit_square`.
        kind: of `CORRUPTIONS`.
        level: 1 (hardly visible) to 5.
        random: of everything that a kind leaves open.

    Returns:
        uint8 (S, S).
    """
    image = square[image_area(square)].astype(np.float32) / np.float32(255)
    chosen = CORRUPTIONS[kind]
    changed = chosen.apply(image, chosen.strengths[level - 1], random)
    return fit_square(np.clip(changed, 0, 1), len(square))


def random_corruption(square: Square, random: Random) -> Square:
    """Corrupt by a random kind at a random level."""
    kind = str(random.choice(list(CORRUPTIONS)))
    return corrupt(square, kind, int(random.choice(LEVELS)), random)
