"""Images that no model should answer, for the input gate: radiographs turned, swapped, cropped or
scrambled, and synthetic pictures.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from cxr_mm.imaging.geometry import Square, image_area, refitted

Random = np.random.Generator
CROPPED = (0.25, 0.45)
"""Range of the sides of a heavy crop, as shares of the image's."""
PIECES = 3


def inverted(square: Square, random: Random) -> Square:
    """Black and white swapped; the bars stay black, or are swapped where the file has them."""
    if random.random() < 0.5:
        return 255 - square
    copy, area = square.copy(), image_area(square)
    copy[area] = 255 - copy[area]
    return copy


def upside_down(square: Square, random: Random) -> Square:
    """Flipped top to bottom, or turned by 180°."""
    return np.flip(square, 0 if random.random() < 0.5 else (0, 1))


def sideways(square: Square, random: Random) -> Square:
    """Turned by 90° to either side."""
    return np.rot90(square, random.choice((1, -1)))


def cropped(square: Square, random: Random, shares: tuple[float, float] = CROPPED) -> Square:
    """Crop a random part and enlarge it; `shares` is the range of its sides."""
    image = square[image_area(square)]
    size = [max(2, round(side * random.uniform(*shares))) for side in image.shape]
    top, left = (random.integers(0, s - n + 1) for s, n in zip(image.shape, size, strict=True))
    return refitted(image[top : top + size[0], left : left + size[1]], len(square))


def scrambled(square: Square, random: Random) -> Square:
    """Cut into three by three pieces in random order: an image's texture without its anatomy."""
    image = square[image_area(square)]
    high, wide = (max(1, side // PIECES) for side in image.shape)
    pieces = [
        image[i * high : (i + 1) * high, j * wide : (j + 1) * wide]
        for i in range(PIECES)
        for j in range(PIECES)
    ]
    order = random.permutation(len(pieces)).reshape(PIECES, PIECES)
    return refitted(np.block([[pieces[n] for n in row] for row in order]), len(square))


OOD_COPIES: dict[str, Callable[[Square, Random], Square]] = {
    "inverted": inverted,
    "upside_down": upside_down,
    "sideways": sideways,
    "cropped": cropped,
    "scrambled": scrambled,
}
"""Kind → function that makes an out-of-distribution copy of an image."""


def synthetic_pictures(count: int, size: int, random: Random) -> Square:
    """Synthetic OOD images, uint8 (count, size, size): leaves, clouds and plain fields in turn."""
    makers = (_leaves, _clouds, _leaves, _plain)
    pictures = [makers[number % len(makers)](size, random) for number in range(count)]
    return np.stack(
        [np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8) for picture in pictures]
    )


def _leaves(size: int, random: Random) -> NDArray[np.float64]:
    """Ellipses and boxes over one another, as many of each radius as keeps all scales alike."""
    picture = np.full((size, size), random.random())
    small, large = random.uniform(0.01, 0.04) * size, random.uniform(0.15, 0.5) * size
    shares = random.random(random.integers(20, 500))
    for radius in 1 / np.sqrt(1 / large**2 + shares * (1 / small**2 - 1 / large**2)):
        _put_leaf(picture, radius, random)
    return picture


def _put_leaf(picture: NDArray[np.float64], radius: float, random: Random) -> None:
    """Draw one leaf, plain, shaded or rough, at a random position and angle."""
    size = len(picture)
    centre = random.uniform(-radius / 2, size + radius / 2, 2)
    low = np.clip(centre - radius, 0, size).astype(int)
    high = np.clip(centre + radius + 1, 0, size).astype(int)
    down, across = np.ogrid[low[0] : high[0], low[1] : high[1]]
    angle, narrow = random.uniform(0, np.pi), random.uniform(0.3, 1)
    u = np.cos(angle) * (across - centre[1]) + np.sin(angle) * (down - centre[0])
    v = (np.cos(angle) * (down - centre[0]) - np.sin(angle) * (across - centre[1])) / narrow
    boxy, shaded, rough = random.random(3) < 0.4
    inside = np.maximum(abs(u), abs(v)) <= 0.7 * radius if boxy else np.hypot(u, v) <= radius
    grey = random.random() + np.zeros(inside.shape)
    if shaded:
        grey = grey + random.uniform(-0.3, 0.3) * u / radius
    if rough:
        grey = grey + random.normal(0, random.uniform(0, 0.1), inside.shape)
    region = picture[low[0] : high[0], low[1] : high[1]]
    region[inside] = grey[inside]


def _clouds(size: int, random: Random) -> NDArray[np.float64]:
    """Noise whose amplitude falls with frequency as 1/f^a; a = 0 is white, 1 as in photographs."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    waves = np.fft.rfft2(random.normal(size=(size, size))) / frequency ** random.uniform(0, 2)
    clouds = np.fft.irfft2(waves, s=(size, size))
    scaled = clouds / clouds.std() * random.uniform(0.02, 0.3) + random.uniform(0.2, 0.8)
    return np.asarray(scaled, np.float64)


def _plain(size: int, random: Random) -> NDArray[np.float64]:
    """One grey, or an even slope from one to another."""
    ramp = np.linspace(-0.5, 0.5, size)
    down, across = random.normal(0, 0.5, 2) * (random.random() < 0.5)
    slope = random.random() + down * ramp[:, None] + across * ramp
    return np.asarray(slope, np.float64)
