"""Augmentation of training images in batches; validation and serving use none of it.

Horizontal flips are part of it, since no shipped finding depends on the side. A task about
laterality or situs should use `none`.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

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
