"""Fragments: clinical features as bars, a note with its words coloured; HTML that draws only.

Everything that comes from outside is escaped, and colour is never the only sign.
"""

from collections.abc import Mapping
from html import escape

import numpy as np
import pandas as pd

from cxr_mm.contracts.explanation import Attribution
from cxr_mm.contracts.study import ClinicalValue
from cxr_mm.contracts.task import ClinicalFeature, Task
from cxr_mm.contracts.units import spoken
from cxr_mm.explain.bars import share_row
from cxr_mm.explain.what_if import typical_range

WORDS_CSS = """
.cxr-note{line-height:2.1}
.cxr-word{border-radius:3px;padding:2px 3px;border-bottom:3px solid transparent}
.cxr-word.for{border-bottom-color:#c65d00}
.cxr-word.against{border-bottom-color:#3b6fb6;border-bottom-style:dashed}
"""


def feature_bars(
    task: Task, said: Attribution, values: Mapping[str, ClinicalValue], background: pd.DataFrame
) -> str:
    """One bar a feature, largest first, with its value, unit and typical range."""
    known = {feature.name: feature for feature in task.clinical}
    longest = max(float(np.abs(said.values).max(initial=0)), 1e-9)
    order = np.argsort(-np.abs(said.values), kind="stable")
    rows = [
        share_row(
            _what(known[said.names[k]], values.get(said.names[k]), background),
            float(said.values[k]),
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
    return f"{title}: {value:g}{spoken(feature.unit)}{typical}"


def coloured_note(said: Attribution) -> str:
    """The note as the model read it, each word on the colour of what it adds to the logit."""
    longest = max(float(np.abs(said.values).max(initial=0)), 1e-9)
    words = [
        _word(name, float(value), longest)
        for name, value in zip(said.names, said.values, strict=True)
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
