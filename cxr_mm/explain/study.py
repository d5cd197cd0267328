"""Study: everything that explains one prediction, the quick parts first."""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import InputError
from cxr_mm.core.files import atomic_directory, check_replaceable, read_json, to_json
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.progress import Progress, ProgressBar
from cxr_mm.core.study import Study
from cxr_mm.core.templates import render
from cxr_mm.explain.attribution import Attribution, Explanation, Target
from cxr_mm.explain.faithfulness.metrics import faithful_methods
from cxr_mm.explain.methods import METHODS, Ask, Method, method
from cxr_mm.explain.overlay import overlay, png
from cxr_mm.explain.pages import study_page
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.explain.what_if import WhatIf, what_if
from cxr_mm.inference.predictor import Predictor


def explaining(
    subject: Subject, target: Target, methods: Sequence[str], ask: Ask | None = None
) -> Iterator[Explanation]:
    """Explain a finding step by step: shares of the modalities alone, then with each method more.

    Args:
        subject: the study.
        target: finding to explain.
        methods: names out of `METHODS`; those whose modality the study lacks are left out.
        ask: seed, and what receives progress.

    Raises:
        InputError: there is no such finding or method.
        CancelledError: the run was cancelled.
    """
    chosen = in_order(subject, methods)
    subject.column(target)
    explanation = modality_shares(subject)[target.finding]
    yield explanation
    for each in chosen:
        attribution = each.explain(subject, target, ask or Ask())
        explanation = replace(explanation, attributions=(*explanation.attributions, attribution))
        yield explanation


def in_order(subject: Subject, methods: Sequence[str]) -> list[Method]:
    """The named methods that have something to explain in this study, quick ones first.

    Raises:
        InputError: there is no such method.
    """
    chosen = [method(name) for name in dict.fromkeys(methods)]
    usable = [each for each in chosen if each.modality in subject.present]
    order = list(METHODS)
    return sorted(usable, key=lambda each: (each.slow, order.index(each.name)))


ALL, NUMBERS = "all", "explanation.json"


@dataclass(frozen=True)
class Question:
    """What to explain of a study, and how.

    Args:
        findings: names or titles; none means all.
        methods: names; none means the faithful ones, `all` every one.
        seed: of every random draw.
        faithfulness: file of the bundle's faithfulness figures; None looks for it.
    """

    findings: tuple[str, ...] = ()
    methods: tuple[str, ...] = ()
    seed: int = 0
    faithfulness: Path | None = None


@dataclass(frozen=True)
class ExplainedStudy:
    """A study with its explanations: the numbers, and the page that shows them.

    A notebook shows the page by itself.

    Args:
        subject: the study as the bundle has encoded it.
        prediction: what the model predicted.
        explanations: finding → shares of the modalities and attributions, in logits.
        what_if: finding → probability over the range of each clinical feature.
        faithfulness: method → figures of `faithfulness.measure`; empty where unknown.
    """

    subject: Subject
    prediction: Prediction
    explanations: dict[str, Explanation]
    what_if: dict[str, list[WhatIf]]
    faithfulness: dict[str, Any]

    def __repr__(self) -> str:
        findings = ", ".join(self.explanations)
        return f"<ExplainedStudy {self.prediction.study_id}: {findings}>"

    def page(self) -> str:
        """One page of HTML that loads nothing."""
        explanations = list(self.explanations.values())
        return study_page(
            self.subject, self.prediction, explanations, self.what_if, self.faithfulness
        )

    def _repr_html_(self) -> str:
        # In a frame of its own, so that neither its style nor the notebook's reaches the other.
        return render("notebook.html", page=self.page(), title=self.prediction.model)

    def write(self, folder: str | os.PathLike[str]) -> Path:
        """Write page, JSON and PNGs, whole or not at all; the page's path is returned.

        Raises:
            InputError: the folder has other files than an earlier explanation.
            StorageError: it cannot be written.
        """
        out = Path(folder)
        check_replaceable(out, NUMBERS)
        with atomic_directory(out) as aside:
            content = {
                "prediction": self.prediction.model_dump(mode="json"),
                "explanations": [
                    _written(self.subject, each, aside) for each in self.explanations.values()
                ],
                "what_if": {n: [asdict(curve) for curve in own] for n, own in self.what_if.items()},
                "faithfulness": self.faithfulness,
            }
            (aside / NUMBERS).write_text(to_json(content), encoding="utf-8")
            (aside / "index.html").write_text(self.page(), encoding="utf-8")
        return out / "index.html"


def explain_study(predictor: Predictor, study: Study, question: Question) -> ExplainedStudy:
    """Explain a study.

    Raises:
        InputError: the study cannot be read, or a finding or method does not exist.
    """
    bundle = predictor.bundle
    figures = measured(bundle.task.name, bundle.digest, question.faithfulness)
    methods = list(METHODS) if ALL in question.methods else list(question.methods)
    methods = [method(name).name for name in methods] or faithful_methods(figures)
    answer = predictor.answer_one(study)
    subject = Subject.of(bundle, answer)
    findings = list(dict.fromkeys(map(bundle.task.finding_name, question.findings)))
    findings = findings or list(bundle.task.finding_names)
    result = _explained(subject, findings, methods, question.seed)
    curves = {each.target.finding: _curves(subject, each.target) for each in result}
    explanations = {each.target.finding: each for each in result}
    return ExplainedStudy(subject, answer.prediction, explanations, curves, figures)


def _explained(
    subject: Subject, findings: Sequence[str], methods: Sequence[str], seed: int
) -> list[Explanation]:
    """Explain each finding, with a bar of methods that says how far the one at work is."""
    steps = len(in_order(subject, methods)) + 1
    with ProgressBar(total=len(findings) * steps, desc="explain", unit="step") as bar:
        watch = Progress(callback=lambda done, total: bar.set_postfix_str(f"{done}/{total}"))
        ask = Ask(seed, watch)
        return [
            list(_ticking(explaining(subject, Target(name), methods, ask), bar))[-1]
            for name in findings
        ]


def _ticking(steps: Iterable[Explanation], bar: ProgressBar) -> Iterator[Explanation]:
    for step in steps:
        yield step
        bar.update()


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


def _written(subject: Subject, explanation: Explanation, folder: Path) -> dict[str, Any]:
    """One finding's explanation for the JSON; maps go into PNGs beside it."""
    return {
        "finding": explanation.target.finding,
        "logit": {"base": explanation.base, "shares": explanation.shares, "sum": explanation.logit},
        "probability": {
            "base": explanation.base_probability,
            "shares": explanation.probability_shares,
            "sum": explanation.probability,
        },
        "attributions": [
            _attribution(subject, explanation.target, each, folder)
            for each in explanation.attributions
        ],
    }


def _attribution(
    subject: Subject, target: Target, attribution: Attribution, folder: Path
) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "modality": attribution.modality,
        "method": attribution.method,
        "base": attribution.base,
        "output": attribution.output,
        **attribution.extra,
    }
    if attribution.modality != "image":
        values = [round(float(value), 6) for value in attribution.values]
        return {**entry, "names": list(attribution.names), "values": values}
    assert subject.study.image is not None
    name = f"{target.finding}.{attribution.method}.png"
    pixels = overlay(subject.study.image, attribution.values, signed=attribution.signed)
    (folder / name).write_bytes(png(pixels))
    return {**entry, "image": name}
