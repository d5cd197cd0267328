"""Bars: probabilities and modality shares as plain HTML, for the gallery's page and for the app.

Draws only. Everything that comes from outside is escaped, colour is never the only sign, and
nothing is loaded from anywhere.
"""

from html import escape

from cxr_mm.contracts.explanation import Explanation
from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.prediction import FindingPrediction, OperatingPoint

NAMES: dict[Modality, str] = {"image": "Film", "tabular": "Clinical features", "note": "Note"}
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


def probability_bar(said: FindingPrediction, point: OperatingPoint | None = None) -> str:
    """One finding: calibrated probability, the operating point drawn on it, and the word."""
    share = min(max(said.probability, 0.0), 1.0)
    word, tick, below = reading(said)
    if point is not None:
        below += (
            f" ({REASONS[point.reason]}); there sensitivity {point.sensitivity:.2f}, "
            f"specificity {point.specificity:.2f}"
        )
    label = f"{said.title}: {percent(share)}, {word}"
    fill = "cxr-fill yes" if said.positive else "cxr-fill"
    if said.certainty == "uncertain":
        fill = "cxr-fill unsure"
    return (
        f'<div class="cxr-finding"><div class="cxr-head"><span>{escape(said.title)}</span>'
        f"<span>{percent(share)} · {word}</span></div>"
        f'<div class="cxr-bar" role="img" aria-label="{escape(label)}">'
        f'<div class="{fill}" style="width:{100 * share:.2f}%"></div>{tick}</div>'
        f'<div class="cxr-small">{escape(below)}</div></div>'
    )


def reading(said: FindingPrediction) -> tuple[str, str, str]:
    """The word for a finding, the tick of its threshold on the bar, the line below."""
    doubt = "uncertain, " if said.certainty == "uncertain" else ""
    if said.threshold is None:
        return doubt + ("likeliest" if said.positive else "less likely"), "", ""
    tick = f'<div class="cxr-tick" style="left:calc({100 * said.threshold:.2f}% - 1px)"></div>'
    word = doubt + ("positive" if said.positive else "negative")
    return word, tick, f"Operating point {percent(said.threshold)}"


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
