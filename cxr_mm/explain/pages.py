"""Study page: one explained study as a self-contained HTML page; draws only."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from tqdm import tqdm

from cxr_mm.core.prediction import NOTICE, FindingPrediction, Prediction
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.core.types import Modality
from cxr_mm.explain import html
from cxr_mm.explain.attribution import Attribution, Explanation, Target
from cxr_mm.explain.cam import cam
from cxr_mm.explain.cases import Case, Studies
from cxr_mm.explain.faithfulness.verdict import verdict
from cxr_mm.explain.html import (
    CSS,
    NAMES,
    STYLE,
    SYNTHETIC,
    WORDS_CSS,
    coloured_note,
    feature_bars,
    percent,
    probability_bar,
    share_bars,
    whole_page,
)
from cxr_mm.explain.methods import METHODS, Method
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.explain.what_if import WhatIf
from cxr_mm.models.bundle import Bundle


def study_page(
    subject: Subject,
    prediction: Prediction,
    explanations: Sequence[Explanation],
    curves: Mapping[str, Sequence[WhatIf]],
    faithfulness: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        subject: the study, its image in its own aspect.
        prediction: what the model attribution.
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
    result = {found.finding: found for found in prediction.findings}
    for explanation in explanations:
        found = result[explanation.target.finding]
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


def _in_probability(attribution: Explanation) -> str:
    shares = ", ".join(
        f"{NAMES[m]} {100 * share:+.1f}" for m, share in attribution.probability_shares.items()
    )
    return (
        f'<p class="quiet">In percentage points: with no input '
        f"{percent(attribution.base_probability)}, "
        f"{escape(shares)}; together {percent(attribution.probability)}.</p>"
    )


def _attribution(
    subject: Subject, attribution: Attribution, faithfulness: Mapping[str, Any]
) -> str:
    method = METHODS[attribution.method]
    inside = _drawn(subject, attribution)
    fit = ""
    if "r2" in attribution.extra:
        low = "" if attribution.extra["readable"] else " Too low to be read."
        fit = f'<p class="quiet">Local fit R² {attribution.extra["r2"]:.2f}.{low}</p>'
    sums = ""
    if attribution.base is not None and attribution.output is not None:
        sums = (
            f'<p class="quiet">Without any of it {attribution.base:+.2f}; '
            f"as it is {attribution.output:+.2f} "
            "(logit).</p>"
        )
    return (
        f"<article><h3>{escape(NAMES[attribution.modality])} · {escape(method.title)}</h3>"
        f"{inside}{sums}"
        f'{fit}<p class="quiet">{escape(method.reading)}</p>'
        f'<p class="quiet">{escape(verdict(faithfulness.get(attribution.method)))}</p></article>'
    )


def _drawn(subject: Subject, attribution: Attribution) -> str:
    drawers: dict[Modality, Any] = {"image": _image, "tabular": _features, "note": _words}
    text: str = drawers[attribution.modality](subject, attribution)
    return text


def _image(subject: Subject, attribution: Attribution) -> str:
    assert subject.study.image is not None
    if attribution.extra.get("empty"):
        return '<p class="quiet">No region of the image speaks for this finding.</p>'
    drawn = html.overlay(subject.study.image, attribution.values, signed=attribution.signed)
    alt = f"The image with what {METHODS[attribution.method].title} says of it in colour"
    return f'<img src="{html.data_uri(drawn)}" alt="{escape(alt)}">'


def _features(subject: Subject, attribution: Attribution) -> str:
    bundle = subject.bundle
    return feature_bars(bundle.task, attribution, subject.encoded.clinical[0], bundle.background)


def _words(subject: Subject, attribution: Attribution) -> str:
    del subject
    return coloured_note(attribution)


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
        through = f"{first:g} to {last:g}{feature.unit_suffix}"
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


HOW = (
    "Colour shows the regions that raise the logit of the finding (Grad-CAM), scaled to the "
    "highest value in each image (1). A bright region is where the model looked, not proof of "
    "disease. Probabilities are those given while the study was held out."
)
FOLDED = (
    "This task is cross-validated: shares and maps are those of the bundle, which has since "
    "learnt from studies shown here; the probability and the kind of each case are held out."
)

FIGURES = {
    "gain": "beats random order by (logits)",
    "sparsity": "sparsity",
    "noise": "rank correlation under noise",
    "seeds": "between seeds",
}
AREAS = {"energy": "energy inside", "pointing": "highest point inside", "iou": "overlap"}


def gallery_page(
    task: Task,
    digest: str,
    cards: Sequence[str],
    faithfulness: Mapping[str, Any],
    moved: Mapping[str, Any],
) -> str:
    """The whole page.

    Args:
        task: for its title.
        digest: of the bundle.
        cards: HTML of each case.
        faithfulness: what faithfulness.json says.
        moved: as `importance` gives it.
    """
    mark = f'<div class="notice synthetic">{SYNTHETIC}</div>' if task.synthetic else ""
    folded = f'<p class="quiet">{FOLDED}</p>' if task.split.protocol == "folds" else ""
    body = "".join(cards) or "<p>There is no held-out study to show.</p>"
    return whole_page(
        f"Explanations: {task.title}",
        STYLE + CSS,
        f'<div class="notice">{escape(NOTICE)}</div>{mark}'
        f'<p class="quiet">Bundle digest {escape(digest[:12])}</p>'
        f"<h2>How faithful the methods are</h2>{_methods(faithfulness['methods'])}"
        f"{_areas(faithfulness['localisation'])}"
        f"<h2>What moves it</h2>{_moved(task, moved)}"
        f'<h2>Right and wrong, in turn</h2><p class="quiet">{HOW}</p>{folded}'
        f'<div class="cases">{body}</div>',
    )


def card(task: Task, case: Case, explanation: Explanation, image: str | None) -> str:
    """One case: image with map, probability, shares.

    Args:
        task: for the finding's title.
        case: what is shown.
        explanation: modality shares of the case's finding.
        image: `data:` address of the drawn image; None without one.
    """
    title = next(f.title for f in task.findings if f.name == case.finding)
    result = FindingPrediction(
        finding=case.finding,
        title=title,
        probability=case.probability,
        threshold=case.threshold,
        positive=case.kind.endswith("positive"),
    )
    alt = escape(f"{case.kind}: the image with the regions that speak for {title}")
    drawn = f'<img src="{image}" alt="{alt}">' if image else '<p class="quiet">No image.</p>'
    used = ", ".join(NAMES[m] for m in explanation.shares)
    wrong = ' class="wrong"' if case.kind.startswith("false") else ""
    return (
        f"<article{wrong}><h3>{escape(case.kind.capitalize())} · {escape(case.study_id)}</h3>"
        f"{drawn}"
        f'{probability_bar(result)}<p class="quiet">Inputs: {escape(used)}</p>'
        f"{share_bars(explanation)}</article>"
    )


def _methods(measured: Mapping[str, Any]) -> str:
    """A row for each method, with intervals, and whether it is faithful."""
    if not measured:
        return '<p class="quiet">Nothing could be measured: there is no held-out study.</p>'
    rows = [_method(METHODS[name], figures) for name, figures in measured.items()]
    columns = ["method", "studies", *FIGURES.values(), "weights shuffled", "faithful"]
    head = "".join(f"<th>{column}</th>" for column in columns)
    return f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'


def _method(method: Method, figures: Mapping[str, Any]) -> str:
    depths = figures["randomised"].values()
    shuffled = f"{list(depths)[-1]['value']:.2f}" if depths else "flat"
    faithful = "yes"
    if not figures["better_than_chance"]:
        faithful = "no: not better than chance"
    if not figures["depends_on_weights"]:
        faithful = "no: hardly depends on the weights"
    cells = [figures["n"], *(_interval(figures.get(name)) for name in FIGURES), shuffled, faithful]
    return _row(f"{NAMES[method.modality]}: {method.title}", *cells)


def _areas(localisation: Mapping[str, Any] | None) -> str:
    """How much of each image method falls on the true areas, with what chance gives."""
    rows = [
        _row(
            f"{finding}: {METHODS[name].title}",
            figures["n"],
            *(_interval(figures[area]) for area in AREAS),
            f"{figures['chance_energy']['value']:.2f}",
        )
        for finding, methods in (localisation or {}).items()
        for name, figures in methods.items()
    ]
    if not rows:
        return ""
    reason = (
        "How much of each map lies on what is really there, as the source of the images knows it"
    )
    head = "".join(f"<th>{c}</th>" for c in ("true area", "studies", *AREAS.values(), "by chance"))
    return (
        f'<h3>In the true area</h3><p class="quiet">{reason}.</p>'
        f'<div class="wide"><table class="figures"><tr>{head}</tr>{"".join(rows)}</table></div>'
    )


def _moved(task: Task, moved: Mapping[str, Any]) -> str:
    """Mean absolute share and SHAP value, largest first."""
    titles = {feature.name: feature.title for feature in task.clinical} | dict(NAMES)
    rows = [
        _row(f"{finding}: {titles.get(name, name)}", figures["n"], _interval(figures))
        for finding, kinds in moved.items()
        for found in kinds.values()
        for name, figures in sorted(found.items(), key=lambda item: -item[1]["value"])
    ]
    head = "<tr><th>input</th><th>studies</th><th>moves the logit by, on average</th></tr>"
    return f'<table class="figures">{head}{"".join(rows)}</table>'


def _row(what: str, *cells: object) -> str:
    return f"<tr><th>{escape(what)}</th>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _interval(figure: Mapping[str, float] | None) -> str:
    if not figure:
        return ""
    return f"{figure['value']:.2f} ({figure['low']:.2f} to {figure['high']:.2f})"


DRAWN = 400


def drawn_cases(
    bundle: Bundle, studies: Studies, cases: Sequence[Case], folder: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Draw every image into `folder/images`; what is known of each case, and its HTML."""
    (folder / "images").mkdir()
    entries: list[dict[str, Any]] = []
    cards: list[str] = []
    for case in tqdm(cases, desc="explain", leave=False):
        entry, result, drawn = _case(bundle, studies, case)
        image = None if drawn is None else html.data_uri(drawn)
        if drawn is not None:
            entry["image"] = f"images/{len(entries):02d}.png"
            (folder / entry["image"]).write_bytes(html.png(drawn))
        cards.append(card(bundle.task, case, result, image))
        entries.append(entry)
    return entries, cards


def _case(
    bundle: Bundle, studies: Studies, case: Case
) -> tuple[dict[str, Any], Explanation, NDArray[Any] | None]:
    """What is known of a case, its modality shares, and the drawn image; None without an image."""
    subject = Subject(bundle, studies.study(case.study_id, with_image=True))
    result = modality_shares(subject)[case.finding]
    parts = {"base": result.base, "shares": result.shares, "logit": result.logit, "image": None}
    entry: dict[str, Any] = {**asdict(case), **parts}
    if subject.study.image is None or "image" not in subject.present:
        return entry, result, None
    attribution = cam(subject, Target(case.finding))
    entry["empty"] = attribution.extra["empty"]
    return entry, result, html.overlay(subject.study.image, attribution.values, longest=DRAWN)
