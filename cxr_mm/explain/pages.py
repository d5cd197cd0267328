"""Pages: one explained study, and the gallery of a task, each one file that loads nothing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from cxr_mm.core.prediction import NOTICE, SYNTHETIC, FindingPrediction, Prediction, percent
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.core.templates import render
from cxr_mm.explain.attribution import Attribution, Explanation, Target
from cxr_mm.explain.cam import cam
from cxr_mm.explain.cases import Case, Studies
from cxr_mm.explain.faithfulness.metrics import verdict
from cxr_mm.explain.html import (
    NAMES,
    coloured_note,
    feature_bars,
    probability_bar,
    share_bars,
)
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.overlay import data_uri, overlay, png
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.explain.what_if import WhatIf
from cxr_mm.models.bundle import Bundle

LINE_WIDTH, LINE_HEIGHT = 120, 28
"""Box of the line of a what-if curve in pixels, as the macro `sparkline` has it."""
LONGEST = 400
"""Longer side of the gallery's images in pixels."""


def study_page(
    subject: Subject,
    prediction: Prediction,
    explanations: Sequence[Explanation],
    curves: Mapping[str, Sequence[WhatIf]],
    faithfulness: Mapping[str, Any],
) -> str:
    """The page of one study.

    Args:
        subject: the study, its image in its own aspect.
        prediction: what the model predicted.
        explanations: one a finding.
        curves: finding → what if each clinical feature were another.
        faithfulness: method → figures as `faithfulness.measure` gives them; empty where unknown.
    """
    bundle = subject.bundle
    findings = {found.finding: found for found in prediction.findings}
    features = {feature.name: feature for feature in bundle.task.clinical}
    sections = []
    for explanation in explanations:
        found = findings[explanation.target.finding]
        point = bundle.operating_point(found.finding, prediction.modalities)
        sections.append(
            {
                "title": found.title,
                "bar": probability_bar(found, point),
                "shares": share_bars(explanation),
                "explanation": explanation,
                "parts": [_part(subject, own, faithfulness) for own in explanation.attributions],
                "curves": [_curve(features[c.feature], c) for c in curves.get(found.finding, ())],
            }
        )
    return render(
        "study.html",
        title=f"Explanation: {bundle.task.title}",
        synthetic=SYNTHETIC,
        prediction=prediction,
        sections=sections,
        names=NAMES,
        percent=percent,
    )


def _part(
    subject: Subject, attribution: Attribution, faithfulness: Mapping[str, Any]
) -> dict[str, Any]:
    """Result of one method, as `image` or `html`; neither where no region speaks for a finding."""
    name, bundle, image = attribution.method, subject.bundle, subject.study.image
    part: dict[str, Any] = {"attribution": attribution, "method": METHODS[name]}
    part["verdict"] = verdict(faithfulness.get(name))
    if attribution.modality == "note":
        part["html"] = coloured_note(attribution)
    elif attribution.modality == "tabular":
        values = subject.encoded.clinical[0]
        part["html"] = feature_bars(bundle.task, attribution, values, bundle.background)
    elif not attribution.extra.get("empty"):
        assert image is not None
        pixels = overlay(image, attribution.values, signed=attribution.signed)
        part["image"] = data_uri(pixels)
    return part


def _curve(feature: ClinicalFeature, curve: WhatIf) -> dict[str, Any]:
    """Values of the feature, and a line of the probability over them if they are numbers."""
    first, last = curve.values[0], curve.values[-1]
    if isinstance(first, float) and isinstance(last, float):
        values, points = f"{first:g} to {last:g}{feature.unit_suffix}", _line(curve.probabilities)
    else:
        pairs = zip(curve.values, curve.probabilities, strict=True)
        values, points = "; ".join(f"{value}: {percent(p)}" for value, p in pairs), ""
    low, high = min(curve.probabilities), max(curve.probabilities)
    return {"title": feature.title, "range": values, "points": points, "low": low, "high": high}


def _line(probabilities: Sequence[float]) -> str:
    step = LINE_WIDTH / (len(probabilities) - 1)
    return " ".join(
        f"{k * step:.1f},{LINE_HEIGHT - p * LINE_HEIGHT:.1f}" for k, p in enumerate(probabilities)
    )


def gallery_page(
    task: Task,
    digest: str,
    cards: Sequence[Mapping[str, Any]],
    faithfulness: Mapping[str, Any],
    importance: Mapping[str, Any],
) -> str:
    """The page of the gallery.

    Args:
        task: for its title.
        digest: of the bundle.
        cards: one a case, as `card` gives them.
        faithfulness: content of faithfulness.json.
        importance: as `stage.importance` gives it.
    """
    return render(
        "gallery.html",
        title=f"Explanations: {task.title}",
        task=task,
        digest=digest,
        warning=NOTICE,
        synthetic=SYNTHETIC,
        cards=cards,
        faithfulness=faithfulness,
        importance=importance,
        methods=METHODS,
        names=NAMES,
        titles={feature.name: feature.title for feature in task.clinical} | dict(NAMES),
    )


def card(task: Task, case: Case, explanation: Explanation, image: str | None) -> dict[str, Any]:
    """One case of the gallery: image with map, probability, shares.

    Args:
        task: for the finding's title.
        case: study and finding.
        explanation: modality shares of the case's finding.
        image: `data:` address of the image with its map; None without one.
    """
    title = next(f.title for f in task.findings if f.name == case.finding)
    prediction = FindingPrediction(
        finding=case.finding,
        title=title,
        probability=case.probability,
        threshold=case.threshold,
        positive=case.kind.endswith("positive"),
    )
    return {
        "case": case,
        "title": title,
        "image": image,
        "bar": probability_bar(prediction),
        "shares": share_bars(explanation),
        "inputs": ", ".join(NAMES[m] for m in explanation.shares),
    }


def draw_cases(
    bundle: Bundle, studies: Studies, cases: Iterable[Case], folder: Path
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Draw every image into `folder/images`; the entries of gallery.json and the cards."""
    (folder / "images").mkdir()
    entries: list[dict[str, Any]] = []
    cards: list[dict[str, Any]] = []
    for case in cases:
        entry, explanation, pixels = _case(bundle, studies, case)
        if pixels is not None:
            entry["image"] = f"images/{len(entries):02d}.png"
            (folder / entry["image"]).write_bytes(png(pixels))
        image = None if pixels is None else data_uri(pixels)
        cards.append(card(bundle.task, case, explanation, image))
        entries.append(entry)
    return entries, cards


def _case(
    bundle: Bundle, studies: Studies, case: Case
) -> tuple[dict[str, Any], Explanation, NDArray[Any] | None]:
    """Entry of a case, its modality shares, and the image with its map; None without an image."""
    subject = Subject(bundle, studies.study(case.study_id, with_image=True))
    result = modality_shares(subject)[case.finding]
    parts = {"base": result.base, "shares": result.shares, "logit": result.logit, "image": None}
    entry: dict[str, Any] = {**asdict(case), **parts}
    if subject.study.image is None or "image" not in subject.present:
        return entry, result, None
    attribution = cam(subject, Target(case.finding))
    entry["empty"] = attribution.extra["empty"]
    return entry, result, overlay(subject.study.image, attribution.values, longest=LONGEST)
