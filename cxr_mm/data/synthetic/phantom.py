"""One phantom image: thorax and lesions → detector, site look and marker → 8-bit pixels."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import gaussian_filter

from cxr_mm.data.synthetic import anatomy
from cxr_mm.data.synthetic.anatomy import Plane, draw_body, draw_thorax, image_shape, on_grid
from cxr_mm.data.synthetic.population import Case, Part, SynthesisSpec, stream

CONSOLIDATION_BIT, EFFUSION_BIT = 1, 2
DETAIL = 0.6
"""The thorax is drawn at this share of the image's resolution, which takes a third of the time."""


@dataclass(frozen=True)
class Look:
    """How a site's images look.

    Args:
        window: attenuation that becomes black and white.
        steepness: of the S-shaped curve between them; small is nearly straight.
        noise: relative quantum noise.
        border: collimated margin on each edge, share of the long side.
        marker: letter, corner (of the image, -1 left or 1 right) and whether it is boxed.
    """

    window: tuple[float, float]
    steepness: float
    noise: float
    border: float
    marker: tuple[str, int, bool]


LOOKS = {
    "A": Look((0.10, 1.55), 2.2, 0.016, 0.0, ("L", 1, False)),
    "B": Look((0.08, 1.35), 2.9, 0.012, 0.035, ("R", -1, True)),
    "C": Look((-0.05, 1.70), 1.6, 0.026, 0.015, ("L", 1, True)),
}


def draw_image(spec: SynthesisSpec, case: Case) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Image and mask of one study.

    Returns:
        pixels uint8 (H, W), MONOCHROME2 unless inverted by the dial; mask uint8 (H, W),
        bit 1 consolidation, bit 2 effusion.
    """
    rng = stream(spec, Part.LESION, case.index)
    shape = image_shape(spec, case.patient.site)
    body = stream(spec, Part.BODY, case.patient.index).spawn(1)[0]
    thorax = draw_thorax(draw_body(spec, case), _coarse(shape), body)
    attenuation = thorax.attenuation + anatomy.mimics(thorax, case, rng.spawn(1)[0])
    mask = np.zeros(shape, dtype=np.uint8)
    if case.illness.consolidation:
        added = anatomy.consolidation(thorax, case, rng)
        attenuation += added
        mask |= _marked(added, thorax.lungs, shape, CONSOLIDATION_BIT)
    if case.illness.effusion:
        added = anatomy.effusion(thorax, case, rng)
        attenuation += added
        mask |= _marked(added, thorax.fields, shape, EFFUSION_BIT)
    return _expose(spec, case, on_grid(attenuation, shape)), mask


def _coarse(shape: tuple[int, int]) -> tuple[int, int]:
    return round(DETAIL * shape[0]), round(DETAIL * shape[1])


def _marked(
    added: Plane, sides: tuple[Plane, Plane], shape: tuple[int, int], bit: int
) -> NDArray[np.uint8]:
    """Mask of one finding at the image's own resolution, as its bit."""
    inside = on_grid(sides[0] + sides[1], shape)
    return anatomy.mask_of(on_grid(added, shape), inside).astype(np.uint8) * np.uint8(bit)


def _expose(spec: SynthesisSpec, case: Case, attenuation: Plane) -> NDArray[np.uint8]:
    """Blur, noise, the site's curve, border and marker."""
    look = LOOKS[case.patient.site]
    rng = stream(spec, Part.IMAGE, case.index).spawn(1)[0]
    draws = rng.standard_normal(4).clip(-2.5, 2.5)
    scale = spec.size / 256
    sigma = scale * np.hypot(0.55 + 0.15 * abs(draws[0]), spec.blur)
    plane = gaussian_filter(attenuation, sigma, mode="nearest", truncate=3.0)
    noise = rng.standard_normal(plane.shape, dtype=np.float32)
    plane += (
        noise * np.exp(0.6 * plane) * np.float32(look.noise * spec.noise * (1 + 0.2 * draws[1]))
    )
    low, high = look.window
    grey = (plane - low) / (high - low)
    grey = 0.5 + (grey - 0.5) * np.float32(spec.contrast * (1 + 0.07 * draws[2]))
    grey += np.float32(0.045 * draws[3] + 0.06 * spec.exposure)
    curve = np.tanh(look.steepness * (grey - 0.5)) / np.tanh(look.steepness / 2) / 2 + 0.5
    pixels = np.rint(np.clip(curve, 0, 1) * 255).astype(np.uint8)
    pixels = _finish(pixels, look, case, rng)
    inverted = rng.random() < spec.inverted
    return 255 - pixels if inverted else pixels


def _finish(
    pixels: NDArray[np.uint8], look: Look, case: Case, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Collimate and burn in the marker, in a corner that differs a little from image to image."""
    height, width = pixels.shape
    size = max(height, width)
    edge = round(size * look.border * rng.uniform(0.5, 1.5))
    if edge:
        pixels[:edge], pixels[-edge:] = 0, 0
        pixels[:, :edge], pixels[:, -edge:] = 0, 0
    letter, corner, boxed = look.marker
    x = width * (0.5 + corner * 0.41) + size * rng.uniform(-0.015, 0.015) - size * 0.025
    y = size * (0.05 + rng.uniform(0, 0.03))
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    text = letter if case.illness.view == "PA" or not boxed else f"{letter}\nAP"
    draw.multiline_text((x, y), text, fill=235, font=_font(round(size * 0.055)), spacing=1)
    if boxed:
        grow, side = size * 0.012, size * 0.055
        lines = 1 + text.count("\n")
        box = (x - grow, y - grow / 2, x + side * (0.6 + 0.5 * lines), y + side * (lines + 0.35))
        draw.rectangle(box, outline=220)
    return np.asarray(image)


@lru_cache
def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
