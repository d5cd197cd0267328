"""Study page: one explained study as a self-contained HTML page; draws only."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from cxr_mm.contracts.explanation import Attribution, Explanation
from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.prediction import NOTICE, Prediction
from cxr_mm.contracts.task import ClinicalFeature
from cxr_mm.contracts.units import spoken
from cxr_mm.explain import render
from cxr_mm.explain.bars import CSS, NAMES, percent, probability_bar, share_bars
from cxr_mm.explain.faithfulness.words import verdict
from cxr_mm.explain.fragments import WORDS_CSS, coloured_note, feature_bars
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.web import STYLE, SYNTHETIC, whole_page
from cxr_mm.explain.what_if import WhatIf


def study_page(
    subject: Subject,
    prediction: Prediction,
    explanations: Sequence[Explanation],
    curves: Mapping[str, Sequence[WhatIf]],
    faithfulness: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        subject: the study, its film in its own aspect.
        prediction: what the model said.
        explanations: one a finding.
        curves: finding → what if each clinical feature were another.
        faithfulness: method → figures as `faithfulness.measure` gives them; empty where unknown.
    """
    task = subject.bundle.task
    mark = f'<div class="notice synthetic">{SYNTHETIC}</div>' if task.synthetic else ""
    warned = "".join(f"<li>{escape(text)}</li>" for text in prediction.warnings)
    body = [
        f'<div class="notice">{escape(NOTICE)}</div>{mark}',
        f'<p class="quiet">Study {escape(prediction.study_id)} · {escape(prediction.model)} · '
        f"digest {escape(prediction.digest[:12])}</p>",
        f'<div class="notice"><strong>Before you read on</strong><ul>{warned}</ul></div>'
        if warned
        else "",
    ]
    said = {found.finding: found for found in prediction.findings}
    for explanation in explanations:
        found = said[explanation.target.finding]
        point = subject.bundle.operating_point(found.finding, prediction.modalities)
        parts = "".join(
            _attribution(subject, each, faithfulness) for each in explanation.attributions
        )
        body += [
            f"<section><h2>{escape(found.title)}</h2>{probability_bar(found, point)}",
            f"<h3>Which input</h3>{share_bars(explanation)}{_in_probability(explanation)}",
            f"<h3>Where in it</h3><div class='parts'>{parts}</div>",
            _curves(subject, curves.get(found.finding, ())),
            "</section>",
        ]
    return whole_page(f"Explanation: {task.title}", STYLE + CSS + WORDS_CSS, "".join(body))


def _in_probability(said: Explanation) -> str:
    shares = ", ".join(
        f"{NAMES[m]} {100 * share:+.1f}" for m, share in said.probability_shares.items()
    )
    return (
        f'<p class="quiet">In percentage points: with no input {percent(said.base_probability)}, '
        f"{escape(shares)}; together {percent(said.probability)}.</p>"
    )


def _attribution(subject: Subject, said: Attribution, faithfulness: Mapping[str, Any]) -> str:
    method = METHODS[said.method]
    inside = _drawn(subject, said)
    fit = ""
    if "r2" in said.extra:
        low = "" if said.extra["readable"] else " Too low to be read."
        fit = f'<p class="quiet">Local fit R² {said.extra["r2"]:.2f}.{low}</p>'
    sums = ""
    if said.base is not None and said.output is not None:
        sums = (
            f'<p class="quiet">Without any of it {said.base:+.2f}; as it is {said.output:+.2f} '
            "(logit).</p>"
        )
    return (
        f"<article><h3>{escape(NAMES[said.modality])} · {escape(method.title)}</h3>{inside}{sums}"
        f'{fit}<p class="quiet">{escape(method.reading)}</p>'
        f'<p class="quiet">{escape(verdict(faithfulness.get(said.method)))}</p></article>'
    )


def _drawn(subject: Subject, said: Attribution) -> str:
    drawers: dict[Modality, Any] = {"image": _film, "tabular": _features, "note": _words}
    text: str = drawers[said.modality](subject, said)
    return text


def _film(subject: Subject, said: Attribution) -> str:
    assert subject.study.image is not None
    if said.extra.get("empty"):
        return '<p class="quiet">No region of the film speaks for this finding.</p>'
    drawn = render.overlay(subject.study.image, said.values, signed=said.signed)
    alt = f"The film with what {METHODS[said.method].title} says of it in colour"
    return f'<img src="{render.data_uri(drawn)}" alt="{escape(alt)}">'


def _features(subject: Subject, said: Attribution) -> str:
    bundle = subject.bundle
    return feature_bars(bundle.task, said, bundle.check(subject.study), bundle.background)


def _words(subject: Subject, said: Attribution) -> str:
    del subject
    return coloured_note(said)


def _curves(subject: Subject, curves: Sequence[WhatIf]) -> str:
    if not curves:
        return ""
    titles = {feature.name: feature for feature in subject.bundle.task.clinical}
    rows = "".join(_curve(titles[each.feature], each) for each in curves)
    head = "<tr><th>If only</th><th>were</th><th>probability</th></tr>"
    return f'<h3>What if</h3><table class="figures">{head}{rows}</table>'


def _curve(feature: ClinicalFeature, curve: WhatIf) -> str:
    """A row: what the feature runs through, and a line of what the probability then is."""
    low, high = min(curve.probabilities), max(curve.probabilities)
    first, last = curve.values[0], curve.values[-1]
    if isinstance(first, float) and isinstance(last, float):
        through = f"{first:g} to {last:g}{spoken(feature.unit)}"
        line = _line(curve.probabilities)
    else:
        pairs = zip(curve.values, curve.probabilities, strict=True)
        through, line = "; ".join(f"{value}: {percent(p)}" for value, p in pairs), ""
    return (
        f"<tr><th>{escape(feature.title)}</th><td>{escape(through)}</td>"
        f"<td>{line} {percent(low)} to {percent(high)}</td></tr>"
    )


def _line(probabilities: Sequence[float]) -> str:
    width, height = 120, 28
    step = width / (len(probabilities) - 1)
    points = " ".join(
        f"{k * step:.1f},{height - p * height:.1f}" for k, p in enumerate(probabilities)
    )
    return (
        f'<svg width="{width}" height="{height}" role="img" aria-label="probability from 0 to 1 '
        f'over the range"><rect width="{width}" height="{height}" fill="#f4f5f7"/>'
        f'<polyline points="{points}" fill="none" stroke="#3b6fb6" stroke-width="2"/></svg>'
    )
