"""Augmentation of training images in batches, and corruptions and synthetic OOD images for the
input gate; validation and serving use none of them.

Horizontal flips are part of it, since no shipped finding depends on the side. A task about
laterality or situs should use `none`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.imaging.geometry import fit_square

Level = Literal["none", "light", "strong"]
BLACK = -1.0


@dataclass(frozen=True)
class Strength:
    """Largest change of each kind; values are uniform between minus and plus."""

    flip: float
    """Chance of a horizontal flip."""
    degrees: float
    scale: float
    """Natural logarithm of the zoom."""
    aspect: float
    """Natural logarithm of the stretch across against down: some sets come squashed."""
    shift: float
    """Share of the side."""
    brightness: float
    """Share of the grey range."""
    contrast: float
    """Natural logarithm of the factor."""
    gamma: float
    """Natural logarithm of the exponent."""
    noise: float = 0.0
    """Standard deviation, share of the grey range."""
    coarse: float = 0.0
    """Natural logarithm of the loss of resolution. Sites and scanners differ in sharpness, and a
    network that reads it has found a shortcut."""
    cutout: float = 0.0
    """Side of the hidden rectangle, share of the image's side."""


STRENGTHS = {
    "light": Strength(0.5, 7, 0.08, 0.0, 0.04, 0.08, 0.15, 0.15),
    "strong": Strength(
        0.5, 15, 0.2, 0.4, 0.1, 0.15, 0.3, 0.35, noise=0.05, coarse=0.9, cutout=0.35
    ),
}


def augment(images: Tensor, level: Level, generator: torch.Generator) -> Tensor:
    """Change each image of a batch in its own way.

    Args:
        images: (B, 1, S, S) float32 in [-1, 1].
        level: `none` returns the images as they are.
        generator: of random numbers, on the images' device.

    Returns:
        Same shape and range.
    """
    if level == "none":
        return images
    strength = STRENGTHS[level]
    draw = _Draw(images, generator)
    # Black is 0 from here on, so that pixels from outside the image are black.
    grey = _affine(images - BLACK, strength, draw).div_(2).clamp_(1e-6, 1)
    grey = _exposure(grey, strength, draw)
    if level == "strong":
        grey = _degrade(grey, strength, draw)
    return grey.clamp_(0, 1).mul_(2).add_(BLACK)


class _Draw:
    """Uniform numbers, one per image, shaped to multiply (B, 1, S, S)."""

    def __init__(self, images: Tensor, generator: torch.Generator) -> None:
        self.count, self.device, self.generator = len(images), images.device, generator

    def share(self) -> Tensor:
        """In [0, 1)."""
        return torch.rand(self.count, 1, 1, 1, device=self.device, generator=self.generator)

    def within(self, bound: float) -> Tensor:
        """In [-bound, bound)."""
        return (self.share() * 2 - 1) * bound


def _affine(images: Tensor, strength: Strength, draw: _Draw) -> Tensor:
    angle = draw.within(math.radians(strength.degrees)).flatten()
    zoom = draw.within(strength.scale).flatten().exp()
    stretch = draw.within(strength.aspect / 2).flatten().exp()
    mirror = torch.where(draw.share().flatten() < strength.flip, -1.0, 1.0)
    across, down = (draw.within(2 * strength.shift).flatten() for _ in range(2))
    wide, high = zoom * stretch, zoom / stretch
    rows = (
        torch.stack((mirror * wide * angle.cos(), -wide * angle.sin(), across), 1),
        torch.stack((mirror * high * angle.sin(), high * angle.cos(), down), 1),
    )
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, align_corners=False)


def _exposure(grey: Tensor, strength: Strength, draw: _Draw) -> Tensor:
    """Change the batch in place, as the functions below do: it is copied only once."""
    grey = grey.pow_(draw.within(strength.gamma).exp())
    mean = grey.mean((2, 3), keepdim=True)
    contrast = draw.within(strength.contrast).exp()
    return grey.sub_(mean).mul_(contrast).add_(mean + draw.within(strength.brightness))


def _degrade(grey: Tensor, strength: Strength, draw: _Draw) -> Tensor:
    """Loss of resolution, noise and one hidden rectangle, each on about half of the images."""
    grey = _coarse(grey, strength, draw)
    noise = torch.randn(grey.shape, device=grey.device, generator=draw.generator)
    grey = grey.add_(noise.mul_(draw.within(strength.noise).clamp(min=0)))
    side = grey.shape[-1]
    position = torch.arange(side, device=grey.device) / side
    high, wide = (draw.within(strength.cutout).clamp(min=0) for _ in range(2))
    hidden = ((position.view(1, 1, -1, 1) - draw.share()).abs() < high / 2) & (
        (position.view(1, 1, 1, -1) - draw.share()).abs() < wide / 2
    )
    return torch.where(hidden, grey.mean((2, 3), keepdim=True), grey)


def _coarse(grey: Tensor, strength: Strength, draw: _Draw) -> Tensor:
    """Blur half of the images, all by the same factor, since a batch has one size."""
    side = grey.shape[-1]
    loss = math.exp(-strength.coarse * float(draw.share().flatten()[0]))
    small = F.interpolate(grey, scale_factor=loss, mode="bilinear", antialias=True)
    lost = F.interpolate(small, size=(side, side), mode="bilinear")
    return torch.where(draw.share() < 0.5, lost, grey)


Square = NDArray[np.uint8]
"""An image from `fit_square`, uint8 (S, S)."""
Random = np.random.Generator
CROPPED = (0.25, 0.45)
"""Range of the sides of a heavy crop, as shares of the image's."""
PIECES = 3


def image_area(square: Square) -> tuple[slice, slice]:
    """Rows and columns of the image in its square, without the black bars beside it."""
    down, across = (np.flatnonzero(square.any(axis=axis)) for axis in (1, 0))
    if not len(down):
        return slice(0, len(square)), slice(0, len(square))
    return slice(down[0], down[-1] + 1), slice(across[0], across[-1] + 1)


def inverted(square: Square, random: Random) -> Square:
    """Black and white swapped; the bars stay black."""
    del random
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
    return _refitted(image[top : top + size[0], left : left + size[1]], len(square))


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
    return _refitted(np.block([[pieces[n] for n in row] for row in order]), len(square))


CORRUPTIONS: dict[str, Callable[[Square, Random], Square]] = {
    "inverted": inverted,
    "upside_down": upside_down,
    "sideways": sideways,
    "cropped": cropped,
    "scrambled": scrambled,
}
"""Kind → function that corrupts an image."""


def synthetic_pictures(count: int, size: int, random: Random) -> Square:
    """Synthetic OOD images, uint8 (count, size, size): leaves, clouds and plain fields in turn."""
    makers = (_leaves, _clouds, _leaves, _plain)
    pictures = [makers[number % len(makers)](size, random) for number in range(count)]
    return np.stack(
        [np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8) for picture in pictures]
    )


def _refitted(image: Square, size: int) -> Square:
    return fit_square(image.astype(np.float32) / np.float32(255), size)


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
