"""Overlay: an image with an attribution over it, in the image's own aspect.

The colours are matplotlib's plasma, or where there is evidence against too, PuOr: orange for,
purple against. Both read the same with a colour vision deficiency, and no step of either is the
grey of an image. The stronger the value, the more of the image it covers.
"""

import base64
from functools import cache, lru_cache
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.imaging.geometry import LONGEST, grey, to_image

COLOURS, TWO_SIDED = "plasma", "PuOr_r"
OPACITY = 0.55
BAR = 0.028  # of the longer side
STEPS = 256
"""Of a colour map."""


def overlay(
    image: NDArray[np.float32],
    values: NDArray[np.float32],
    *,
    signed: bool = False,
    opacity: float = OPACITY,
    longest: int = LONGEST,
) -> NDArray[np.uint8]:
    """The image with an attribution over it and a colour bar beside it.

    Args:
        image: float32 (H, W) in [0, 1].
        values: float32 (S, S) over the square that the model saw; in [0, 1] unless signed.
        signed: whether values below 0 are evidence against, and shown too, all in units of the
            strongest.
        opacity: how much of the colour covers the image where the value is 1.
        longest: longer side of the result in pixels.

    Returns:
        uint8 (h, w, 3).
    """
    under = grey(image, longest)
    lowest = -1 if signed else 0
    highest = float(np.abs(values).max(initial=0))
    scaled = values / highest if signed and highest > 0 else values
    above = np.clip(to_image(scaled, under.shape[:2]), lowest, 1)
    mixed = _over(under, above, opacity, signed=signed)
    return np.concatenate([mixed, _bar(mixed.shape[0], opacity, signed=signed)], axis=1)


def _over(
    under: NDArray[np.uint8], values: NDArray[np.floating], opacity: float, *, signed: bool
) -> NDArray[np.uint8]:
    """Colours of values (h, w) over grey (h, w, 3)."""
    position = (values + 1) / 2 if signed else values
    steps = Image.fromarray(np.clip(position * STEPS, 0, STEPS - 1).astype(np.uint8))
    steps.putpalette(_palette(TWO_SIDED if signed else COLOURS))
    cover = np.rint(np.abs(values) * (255 * opacity)).astype(np.uint8)
    mixed = Image.composite(
        steps.convert("RGB"), Image.fromarray(under), Image.fromarray(cover, "L")
    )
    return np.asarray(mixed)


@cache
def _palette(name: str) -> bytes:
    """Red, green and blue of each step of a colour map."""
    colours = colormaps[name](np.arange(STEPS, dtype=np.uint8), bytes=True)
    return bytes(colours[:, :3].tobytes())


@lru_cache(maxsize=64)
def _bar(height: int, opacity: float, *, signed: bool) -> NDArray[np.uint8]:
    """Colour bar (height, w, 3): what each value looks like over mid-grey, 1 above."""
    width = max(6, round(height * BAR))
    canvas = np.full((height, width * 4, 3), 24, dtype=np.uint8)
    low = -1 if signed else 0
    values = np.linspace(1, low, height - 2 * width)[:, None].repeat(width, axis=1)
    under = np.full((*values.shape, 3), 110, dtype=np.uint8)
    canvas[width:-width, width : 2 * width] = _over(under, values, opacity, signed=signed)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, round(width * 1.1)))
    draw.text((2.2 * width, width), "1", fill=(230, 230, 230), font=font, anchor="lt")
    lower = "\N{MINUS SIGN}1" if signed else "0"
    draw.text((2.2 * width, height - width), lower, fill=(230, 230, 230), font=font, anchor="lb")
    return np.asarray(image)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of (H, W, 3) or (H, W)."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def data_uri(image: NDArray[np.uint8] | bytes) -> str:
    """Pixels (H, W, 3) or (H, W), or a PNG, as a `data:` address: a page needs no second file."""
    data = image if isinstance(image, bytes) else png(image)
    return "data:image/png;base64," + base64.b64encode(data).decode("ascii")
