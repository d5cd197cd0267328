"""Render: draws a film with an attribution over it, in the film's own aspect; computes nothing.

The colours are matplotlib's plasma: lightness rises evenly, so that it reads the same with a
colour vision deficiency, and no step of it is the grey of a film. The higher the value, the more
of the film it covers.
"""

import base64
from io import BytesIO

import numpy as np
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.explain.film import shrunk, to_film

COLOURS = "plasma"
OPACITY = 0.55
BAR = 0.028  # of the longer side
LONGEST = 640


def grey(film: NDArray[np.float32], longest: int = LONGEST) -> NDArray[np.uint8]:
    """The film alone, uint8 (H, W, 3), its longer side at most `longest` pixels."""
    pixels = np.rint(shrunk(film, longest) * 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)


def overlay(
    film: NDArray[np.float32],
    values: NDArray[np.float32],
    *,
    opacity: float = OPACITY,
    longest: int = LONGEST,
) -> NDArray[np.uint8]:
    """The film with an attribution over it and a colour bar beside it.

    Args:
        film: float32 (H, W) in [0, 1].
        values: float32 (S, S) in [0, 1] over the square that the model saw.
        opacity: how much of the colour covers the film where the value is 1.
        longest: longer side of the drawn film in pixels.

    Returns:
        uint8 (h, w, 3).
    """
    under = grey(film, longest)
    above = np.clip(to_film(values, under.shape[:2]), 0, 1)
    colour = colormaps[COLOURS](above)[:, :, :3] * 255
    alpha = (opacity * above)[:, :, None]
    mixed = np.rint(under * (1 - alpha) + colour * alpha).astype(np.uint8)
    return np.concatenate([mixed, _bar(mixed.shape[0], opacity)], axis=1)


def _bar(height: int, opacity: float) -> NDArray[np.uint8]:
    """Colour bar (height, w, 3): what each value looks like over mid-grey, 1 above and 0 below."""
    width = max(6, round(height * BAR))
    canvas = np.full((height, width * 4, 3), 24, dtype=np.uint8)
    values = np.linspace(1, 0, height - 2 * width)[:, None].repeat(width, axis=1)
    alpha = (opacity * values)[:, :, None]
    colour = colormaps[COLOURS](values)[:, :, :3] * 255
    canvas[width:-width, width : 2 * width] = np.rint(110 * (1 - alpha) + colour * alpha)
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=max(9, round(width * 1.1)))
    draw.text((2.4 * width, width), "1", fill=(230, 230, 230), font=font, anchor="lt")
    draw.text((2.4 * width, height - width), "0", fill=(230, 230, 230), font=font, anchor="lb")
    return np.asarray(image)


def png(pixels: NDArray[np.uint8]) -> bytes:
    """PNG bytes of (H, W, 3) or (H, W)."""
    stream = BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", optimize=True)
    return stream.getvalue()


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The same as a `data:` address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")
