"""Judge: window against reference → verdict, with every figure it rests on."""

from dataclasses import dataclass

import pandas as pd

from cxr_mm.contracts.verdict import Reason, Verdict, worst
from monitoring.concept import ConceptResult, labelled, score_concept
from monitoring.drift import CheckResult, score_window
from monitoring.reasons import concept_reasons, data_reasons, interpretation
from monitoring.reference import Reference


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on.

    Args:
        verdict: the verdict.
        checks: every data check, highest score first; empty where the window is too small.
        concept: every metric; None where there are too few labels.
        rate: false-alarm rate that data and concept each were given.
    """

    verdict: Verdict
    checks: list[CheckResult]
    concept: ConceptResult | None
    rate: float


def judge(current: pd.DataFrame, reference: Reference, notes: tuple[str, ...] = ()) -> Judgement:
    """Judge a window (one row per study).

    Where labels allow to judge the concept too, data and concept get half of the false-alarm
    rate each, so that both together keep it.
    """
    findings = reference.task.finding_names
    n_labelled = len(labelled(current, findings))
    smallest = reference.thresholds.smallest
    if len(current) < smallest:
        few = f"{len(current)} studies are too few to judge; at least {smallest} are needed"
        verdict = _verdict("too_small", current, reference, n_labelled, few, (), notes)
        return Judgement(verdict, [], None, reference.params.false_alarm_rate)
    concept = None
    if n_labelled >= smallest:
        concept = score_concept(current, reference.table, findings, reference.params.seed)
    if concept is None:
        notes = (*notes, _too_few_labels(n_labelled, smallest))
    rate = reference.params.false_alarm_rate / (1 if concept is None else 2)
    checks = score_window(current, reference.table, reference.checks, reference.thresholds)
    data = data_reasons(checks, reference, current, rate)
    worse = concept_reasons(concept, rate)
    reasons = tuple(sorted((*data, *worse), key=lambda r: (r.level != "alarm", -r.score)))
    meaning = interpretation(bool(data), None if concept is None else bool(worse))
    headline = f"{len(current)} studies, {n_labelled} labelled. "
    headline += f"First: {reasons[0].text}. {meaning}." if reasons else f"{meaning}."
    verdict = _verdict(worst(reasons), current, reference, n_labelled, headline, reasons, notes)
    return Judgement(verdict, checks, concept, rate)


def _verdict(
    status: str,
    current: pd.DataFrame,
    reference: Reference,
    n_labelled: int,
    headline: str,
    reasons: tuple[Reason, ...],
    notes: tuple[str, ...],
) -> Verdict:
    times = current["created_at"]
    return Verdict.model_validate(
        {
            "status": status,
            "task": reference.task.name,
            "digest": reference.digest,
            "n": len(current),
            "n_labelled": n_labelled,
            "first": None if current.empty else times.min().isoformat(),
            "last": None if current.empty else times.max().isoformat(),
            "headline": headline,
            "reasons": reasons,
            "notes": notes,
        }
    )


def _too_few_labels(n_labelled: int, smallest: int) -> str:
    if n_labelled < smallest:
        return (
            f"Concept drift was not judged: {n_labelled} labelled studies, at least {smallest} "
            "are needed"
        )
    return "Concept drift was not judged: too few of one class among the labels"
