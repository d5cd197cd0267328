"""One: a study explained into a folder, as JSON, PNGs and one self-contained HTML page."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cxr_mm.contracts.explanation import Attribution, Explanation, Target
from cxr_mm.contracts.prediction import Prediction
from cxr_mm.contracts.study import Study
from cxr_mm.errors import InputError
from cxr_mm.explain import render
from cxr_mm.explain.faithfulness.words import believed
from cxr_mm.explain.methods import METHODS, Ask, method
from cxr_mm.explain.study import explain_study
from cxr_mm.explain.study_page import study_page
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.what_if import WhatIf, what_if
from cxr_mm.files import folder_written_aside, read_json, to_json
from cxr_mm.inference import Predictor

ALL = "all"


@dataclass(frozen=True)
class Question:
    """What is asked of a study.

    Args:
        findings: names; none means all.
        methods: names; none means those that may be believed, `all` every one.
        seed: of all that is drawn.
        faithfulness: file of the bundle's faithfulness figures; None looks for it.
    """

    findings: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seed: int = 0
    faithfulness: Path | None = None


def explain_to(predictor: Predictor, study: Study, question: Question, out: Path) -> Path:
    """Explain a study and write it down, whole or not at all; the page's path is returned.

    Raises:
        InputError: the study cannot be read, or a finding or method does not exist.
    """
    bundle = predictor.bundle
    figures = measured(bundle.task.name, bundle.digest, question.faithfulness)
    methods = list(METHODS) if ALL in question.methods else list(question.methods)
    methods = [method(name).name for name in methods] or believed(figures)
    prediction = predictor.predict(study)
    subject = Subject(bundle, study)
    said = [
        explain_study(subject, Target(name), methods, Ask(question.seed))
        for name in question.findings or bundle.task.finding_names
    ]
    curves = {each.target.finding: _curves(subject, each.target) for each in said}
    with folder_written_aside(out) as folder:
        found = [_written(subject, each, folder) for each in said]
        answer = _as_json(prediction, found, curves, figures)
        (folder / "explanation.json").write_text(to_json(answer), encoding="utf-8")
        page = study_page(subject, prediction, said, curves, figures)
        (folder / "index.html").write_text(page, encoding="utf-8")
    return out / "index.html"


def measured(task: str, digest: str, given: Path | None) -> dict[str, Any]:
    """Faithfulness figures by method; empty where there are none of this very bundle.

    Raises:
        InputError: the given file cannot be read, or is of another bundle.
    """
    path = given or Path("reports") / task / "faithfulness.json"
    try:
        found = read_json(path)
        if found["digest"] == digest:
            return dict(found["methods"])
        problem = "it is of another bundle"
    except (OSError, ValueError, KeyError) as error:
        problem = f"it cannot be read ({type(error).__name__})"
    if given is None:
        return {}
    raise InputError(problem, field=str(path), remedy="Run the stage explain for this bundle")


def _curves(subject: Subject, target: Target) -> list[WhatIf]:
    if "tabular" not in subject.present:
        return []
    return [what_if(subject, target, name) for name in subject.bundle.task.clinical_names]


def _written(subject: Subject, said: Explanation, folder: Path) -> dict[str, Any]:
    """One finding's explanation for the JSON; maps go into PNGs beside it."""
    return {
        "finding": said.target.finding,
        "logit": {"base": said.base, "shares": said.shares, "sum": said.logit},
        "probability": {
            "base": said.base_probability,
            "shares": said.probability_shares,
            "sum": said.probability,
        },
        "attributions": [
            _attribution(subject, said.target, each, folder) for each in said.attributions
        ],
    }


def _attribution(
    subject: Subject, target: Target, said: Attribution, folder: Path
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "modality": said.modality,
        "method": said.method,
        "base": said.base,
        "output": said.output,
        **said.extra,
    }
    if said.modality != "image":
        values = [round(float(value), 6) for value in said.values]
        return {**entry, "names": list(said.names), "values": values}
    assert subject.study.image is not None
    name = f"{target.finding}.{said.method}.png"
    drawn = render.overlay(subject.study.image, said.values, signed=said.signed)
    (folder / name).write_bytes(render.png(drawn))
    return {**entry, "film": name}


def _as_json(
    prediction: Prediction,
    found: list[dict[str, Any]],
    curves: dict[str, list[WhatIf]],
    figures: dict[str, Any],
) -> dict[str, Any]:
    return {
        "prediction": prediction.model_dump(mode="json"),
        "explanations": found,
        "what_if": {name: [asdict(curve) for curve in own] for name, own in curves.items()},
        "faithfulness": figures,
    }
