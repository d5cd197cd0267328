"""Pieces of pages: probabilities, shares, clinical features and notes as HTML, by the macros."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from markupsafe import Markup

from cxr_mm.core.prediction import FindingPrediction, OperatingPoint, percent
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.core.templates import macro, render
from cxr_mm.core.types import Modality
from cxr_mm.explain.attribution import Attribution, Explanation
from cxr_mm.explain.what_if import typical_range

NAMES: dict[Modality, str] = {
    "image": "Image",
    "tabular": "Clinical features",
    "note": "Note",
}
CSS = render("bars.css")
"""Style of the pieces, for pages that do not extend the base template."""


def probability_bar(prediction: FindingPrediction, point: OperatingPoint | None = None) -> Markup:
    """One finding: calibrated probability, the operating point as a tick, and the answer."""
    share = min(max(prediction.probability, 0.0), 1.0)
    below = ""
    if point is not None:
        below = (
            f"Operating point: {point.criterion}; there sensitivity "
            f"{point.sensitivity:.2f}, specificity {point.specificity:.2f}"
        )
    colour = "yes" if prediction.positive else ""
    if prediction.certainty == "uncertain":
        colour = "unsure"
    values = (percent(share), 100 * share, prediction.in_words, colour, prediction.threshold, below)
    return macro("probability_bar", prediction.title, *values)


def share_bars(explanation: Explanation) -> Markup:
    """Shares of the modalities in the logit of one finding; right speaks for it, left against."""
    shares = [(NAMES[m], share) for m, share in explanation.shares.items()]
    return _share_table([("With no input", explanation.base), *shares], explanation.logit)


def _share_table(rows: Sequence[tuple[str, float]], total: float | None = None) -> Markup:
    longest = max([*(abs(value) for _, value in rows), 1e-9])
    return macro("share_table", rows, longest, total)


def feature_bars(
    task: Task,
    attribution: Attribution,
    values: Mapping[str, ClinicalValue],
    background: pd.DataFrame,
) -> Markup:
    """One bar a feature, largest first, with its value, unit and typical range."""
    features = {feature.name: feature for feature in task.clinical}
    order = np.argsort(-np.abs(attribution.values), kind="stable")
    names = [attribution.names[k] for k in order]
    titles = [_with_value(features[name], values.get(name), background) for name in names]
    return _share_table(list(zip(titles, attribution.values[order].tolist(), strict=True)))


def _with_value(feature: ClinicalFeature, value: ClinicalValue, background: pd.DataFrame) -> str:
    if value is None:
        return f"{feature.title}: not known"
    if not isinstance(value, float):
        return f"{feature.title}: {value}"
    usual = typical_range(background, feature.name)
    typical = f" (usually {usual[0]:g} to {usual[1]:g})" if usual else ""
    return f"{feature.title}: {value:g}{feature.unit_suffix}{typical}"


def coloured_note(attribution: Attribution) -> Markup:
    """The note as the model read it, each word on the colour of what it adds to the logit."""
    values = attribution.values.tolist()
    longest = max([*map(abs, values), 1e-9])
    return macro("coloured_words", list(zip(attribution.names, values, strict=True)), longest)
