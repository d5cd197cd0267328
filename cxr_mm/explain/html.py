"""Render: draws an image with an attribution over it, in the image's own aspect; computes nothing.

The colours are matplotlib's plasma, or where there is evidence against too, PuOr: orange for,
purple against. Both read the same with a colour vision deficiency, and no step of either is the
grey of an image. The stronger the value, the more of the image it covers.
"""

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO

import numpy as np
import pandas as pd
from matplotlib import colormaps
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.core.prediction import FindingPrediction, OperatingPoint
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.core.types import Modality
from cxr_mm.explain.attribution import Attribution, Explanation
from cxr_mm.explain.what_if import typical_range
from cxr_mm.imaging.geometry import shrink_radiograph, to_image

COLOURS, TWO_SIDED = "plasma", "PuOr_r"
OPACITY = 0.55
BAR = 0.028  # of the longer side
LONGEST = 640


def grey(image: NDArray[np.float32], longest: int = LONGEST) -> NDArray[np.uint8]:
    """The image alone, uint8 (H, W, 3), its longer side at most `longest` pixels."""
    pixels = np.rint(shrink_radiograph(image, longest) * 255).astype(np.uint8)
    return np.repeat(pixels[:, :, None], 3, axis=2)


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
        signed: whether values below 0 are evidence against, and drawn too, all in units of the
            strongest.
        opacity: how much of the colour covers the image where the value is 1.
        longest: longer side of the drawn image in pixels.

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
    place = (values + 1) / 2 if signed else values
    colour = colormaps[TWO_SIDED if signed else COLOURS](place)[:, :, :3] * 255
    alpha = (opacity * np.abs(values))[:, :, None]
    mixed: NDArray[np.uint8] = np.rint(under * (1 - alpha) + colour * alpha).astype(np.uint8)
    return mixed


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


def data_uri(pixels: NDArray[np.uint8]) -> str:
    """The same as a `data:` address, so that a page needs no second file."""
    return "data:image/png;base64," + base64.b64encode(png(pixels)).decode("ascii")


NAMES: dict[Modality, str] = {
    "image": "Image",
    "tabular": "Clinical features",
    "note": "Note",
}
REASONS = {
    "youden": "Youden",
    "high_sensitivity": "high sensitivity",
    "high_specificity": "high specificity",
}

CSS = """
.cxr-bar{position:relative;height:14px;border-radius:3px;margin:4px 0 2px;
  background:var(--border-color-primary,#d9dde3)}
.cxr-fill{position:absolute;top:0;bottom:0;left:0;border-radius:3px;background:#3b6fb6}
.cxr-fill.yes{background:#c65d00}
.cxr-fill.unsure{background:#6b7280}
.cxr-tick{position:absolute;top:-4px;bottom:-4px;width:2px;background:var(--body-text-color,#1b1f24)}
.cxr-head{display:flex;justify-content:space-between;gap:12px;flex-wrap:wrap;font-weight:600}
.cxr-small{font-size:.85em;opacity:.85;font-variant-numeric:tabular-nums}
.cxr-finding{margin:0 0 14px}
table.cxr-shares{width:100%;table-layout:fixed;border:0 !important;border-collapse:collapse;
  margin:0;font-size:.92em;font-variant-numeric:tabular-nums}
.cxr-shares caption{text-align:left;padding:0 0 2px}
.cxr-shares tr,.cxr-shares th,.cxr-shares td{border:0;background:none;padding:3px 0}
.cxr-shares th{font-weight:400;text-align:left;width:36%}
.cxr-shares td:last-child{text-align:right;width:3.6em;white-space:nowrap}
.cxr-shares tr.total th,.cxr-shares tr.total td{
  border-top:1px solid var(--border-color-primary,#b8bec7);font-weight:600}
.cxr-axis{position:relative;height:12px}
.cxr-axis::after{content:"";position:absolute;left:50%;top:-2px;bottom:-2px;width:1px;
  background:var(--body-text-color,#1b1f24)}
.cxr-for,.cxr-against{position:absolute;top:1px;bottom:1px}
.cxr-for{left:50%;background:#c65d00}
.cxr-against{right:50%;background:#3b6fb6}
"""


def percent(probability: float) -> str:
    """A probability as a person reads it: one decimal at most, never a false 0 or 100."""
    if 0 < probability < 0.001:
        return "< 0.1 %"
    if 0.999 < probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


def probability_bar(prediction: FindingPrediction, point: OperatingPoint | None = None) -> str:
    """One finding: calibrated probability, the operating point drawn on it, and the word."""
    share = min(max(prediction.probability, 0.0), 1.0)
    word, tick, below = reading(prediction)
    if point is not None:
        below += (
            f" ({REASONS[point.reason]}); there sensitivity {point.sensitivity:.2f}, "
            f"specificity {point.specificity:.2f}"
        )
    label = f"{prediction.title}: {percent(share)}, {word}"
    fill = "cxr-fill yes" if prediction.positive else "cxr-fill"
    if prediction.certainty == "uncertain":
        fill = "cxr-fill unsure"
    return (
        f'<div class="cxr-finding"><div class="cxr-head"><span>{escape(prediction.title)}</span>'
        f"<span>{percent(share)} · {word}</span></div>"
        f'<div class="cxr-bar" role="img" aria-label="{escape(label)}">'
        f'<div class="{fill}" style="width:{100 * share:.2f}%"></div>{tick}</div>'
        f'<div class="cxr-small">{escape(below)}</div></div>'
    )


def reading(prediction: FindingPrediction) -> tuple[str, str, str]:
    """The word for a finding, the tick of its threshold on the bar, the line below."""
    gate_decision = "uncertain, " if prediction.certainty == "uncertain" else ""
    if prediction.threshold is None:
        return gate_decision + ("likeliest" if prediction.positive else "less likely"), "", ""
    tick = (
        f'<div class="cxr-tick" style="left:calc({100 * prediction.threshold:.2f}% - 1px)"></div>'
    )
    word = gate_decision + ("positive" if prediction.positive else "negative")
    return word, tick, f"Operating point {percent(prediction.threshold)}"


def share_bars(explanation: Explanation) -> str:
    """Shares of the modalities in the logit of one finding; right speaks for it, left against."""
    longest = max([abs(explanation.base), *map(abs, explanation.shares.values()), 1e-9])
    rows = [share_row("With no input", explanation.base, longest)]
    rows += [share_row(NAMES[m], share, longest) for m, share in explanation.shares.items()]
    return (
        '<table class="cxr-shares"><caption class="cxr-small">'
        "Right of the line speaks for the finding, left against it (in logits)</caption><tbody>"
        + "".join(rows)
        + '<tr class="total"><th scope="row">Sum (logit)</th><td></td>'
        + f"<td>{_signed(explanation.logit)}</td></tr></tbody></table>"
    )


def share_row(name: str, value: float, longest: float) -> str:
    """A row of a table of class `cxr-shares`: a name, a bar from the middle, the figure."""
    side = "cxr-for" if value >= 0 else "cxr-against"
    width = 50 * abs(value) / longest
    return (
        f'<tr><th scope="row">{escape(name)}</th><td><div class="cxr-axis">'
        f'<div class="{side}" style="width:{width:.2f}%"></div></div></td>'
        f"<td>{_signed(value)}</td></tr>"
    )


def _signed(value: float) -> str:
    """Two decimals with a sign, and no minus before nothing."""
    return f"{round(value, 2) + 0.0:+.2f}".replace("-", "−")


WORDS_CSS = """
.cxr-note{line-height:2.1}
.cxr-word{border-radius:3px;padding:2px 3px;border-bottom:3px solid transparent}
.cxr-word.for{border-bottom-color:#c65d00}
.cxr-word.against{border-bottom-color:#3b6fb6;border-bottom-style:dashed}
"""


def feature_bars(
    task: Task,
    attribution: Attribution,
    values: Mapping[str, ClinicalValue],
    background: pd.DataFrame,
) -> str:
    """One bar a feature, largest first, with its value, unit and typical range."""
    known = {feature.name: feature for feature in task.clinical}
    longest = max(float(np.abs(attribution.values).max(initial=0)), 1e-9)
    order = np.argsort(-np.abs(attribution.values), kind="stable")
    rows = [
        share_row(
            _what(known[attribution.names[k]], values.get(attribution.names[k]), background),
            float(attribution.values[k]),
            longest,
        )
        for k in order
    ]
    return (
        '<table class="cxr-shares"><caption class="cxr-small">Right of the line speaks for the '
        f"finding, left against it (in logits)</caption><tbody>{''.join(rows)}</tbody></table>"
    )


def _what(feature: ClinicalFeature, value: ClinicalValue, background: pd.DataFrame) -> str:
    title = feature.title
    if value is None:
        return f"{title}: not known"
    if not isinstance(value, float):
        return f"{title}: {value}"
    usual = typical_range(background, feature.name)
    typical = f" (usually {usual[0]:g} to {usual[1]:g})" if usual else ""
    return f"{title}: {value:g}{feature.unit_suffix}{typical}"


def coloured_note(prediction: Attribution) -> str:
    """The note as the model read it, each word on the colour of what it adds to the logit."""
    longest = max(float(np.abs(prediction.values).max(initial=0)), 1e-9)
    words = [
        _word(name, float(value), longest)
        for name, value in zip(prediction.names, prediction.values, strict=True)
    ]
    return (
        f'<p class="cxr-note">{" ".join(words)}</p><p class="cxr-small">Solid underline: speaks '
        "for the finding; dashed: against it; the stronger the colour, the more.</p>"
    )


def _word(name: str, value: float, longest: float) -> str:
    strength = abs(value) / longest
    red, green, blue = (198, 93, 0) if value >= 0 else (59, 111, 182)
    side = ("for" if value >= 0 else "against") if strength >= 0.1 else ""
    return (
        f'<span class="cxr-word {side}" title="{value:+.2f}" '
        f'style="background:rgba({red},{green},{blue},{0.45 * strength:.2f})">{escape(name)}</span>'
    )


SYNTHETIC = "SYNTHETIC: made-up data; nothing here is a real patient."
STYLE = """
:root{color-scheme:light}
body{font:16px/1.45 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif;color:#1b1f24;
  background:#fff;max-width:1180px;margin:0 auto;padding:16px}
h1{font-size:1.5rem;margin:.2em 0}
h2{font-size:1.15rem;margin:1.4em 0 .4em}
.notice{border-left:4px solid #c65d00;background:#f4f5f7;padding:7px 12px;margin:0 0 6px;
  font-weight:550}
.synthetic{border-left-color:#7b3fa0}
.cases{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,340px),1fr));gap:20px}
.parts{display:flex;flex-wrap:wrap;gap:20px;align-items:flex-start}
.parts>article{flex:1 1 340px;max-width:100%}
.wide{overflow-x:auto}
article{border:1px solid #d9dde3;border-radius:8px;padding:12px}
article h3{font-size:1rem;margin:0 0 8px;overflow-wrap:anywhere}
article.wrong{border-color:#c65d00;border-width:2px}
img{max-width:100%;height:auto;display:block;margin:0 auto 10px;border-radius:4px}
table.figures{border-collapse:collapse;font-variant-numeric:tabular-nums}
table.figures th,table.figures td{text-align:left;padding:3px 14px 3px 0}
.quiet{color:#4a5260;font-size:.92em}
"""


def whole_page(title: str, style: str, body: str) -> str:
    """A page that loads nothing from anywhere.

    Args:
        title: plain text.
        style: CSS.
        body: HTML, what comes from outside already escaped.
    """
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>"
        f"<h1>{escape(title)}</h1>{body}</body></html>"
    )
