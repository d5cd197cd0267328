"""Judge: window against reference → verdict, with every figure it rests on.

Data, prevalence, refused films and concept each get a part of the false-alarm rate, so that
together they keep it. A reason that alarmed in the window before goes on alarming until it falls
below the lower limit of a warning, so that a verdict does not flicker; the rate allows for that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import pandas as pd

from cxr_mm.contracts.record import ServiceEvent
from cxr_mm.contracts.verdict import Reason, Verdict, worst
from monitoring.concept import ConceptResult, score_concept
from monitoring.drift import CheckResult, score_window
from monitoring.films import RefusedFilms, score_refused
from monitoring.label_shift import LabelShift, label_shift
from monitoring.prevalence import PredictedPrevalence, score_prevalence
from monitoring.reasons import (
    FILMS,
    PREVALENCE,
    Limits,
    concept_reasons,
    data_reasons,
    in_order,
    interpretation,
    shift_reason,
    tested_reason,
)
from monitoring.reference import Reference

Family = Literal["data", "prevalence", "concept", "films"]
PARTS: dict[Family, float] = {"data": 4, "prevalence": 2, "concept": 3, "films": 1}
"""How the false-alarm rate is divided; a family that cannot be judged leaves its part to the
others."""

LASTS = 2
"""Windows that a false alarm of the longer window lasts, since it shares most studies with the next
one: on 540 undrifted windows of made-up studies 9 of the concept lasted 17 windows in all."""


@dataclass(frozen=True)
class Window:
    """What is judged.

    Args:
        table: one row per study, as `newest_per_study` gives it; of a large window a part of it.
        labelled: studies of the window by whose labels the concept is judged.
        longer: labelled studies of this window and of those before it, in which small changes of
            the concept add up; empty where there is nothing before.
        studies, n_labelled: how many the whole window has.
        events: requests of the window that got no prediction.
        before: verdict of the window before, if it is of the same model.
    """

    table: pd.DataFrame
    labelled: pd.DataFrame
    longer: pd.DataFrame
    studies: int
    n_labelled: int
    events: Sequence[ServiceEvent] = ()
    before: Verdict | None = None


@dataclass(frozen=True)
class Judgement:
    """A verdict and what it rests on.

    Args:
        verdict: the verdict.
        checks: every data check, highest score first; empty where the window is too small.
        prevalence: mean predicted probabilities; None where the window is too small.
        films: refused films; None without a film.
        concept: every metric of the window, then of the longer window; empty where there are too
            few labels.
        shift: the change of prevalence that would explain the data, where one does.
        rates: family → its part of the false-alarm rate.
    """

    verdict: Verdict
    checks: list[CheckResult] = field(default_factory=list)
    prevalence: PredictedPrevalence | None = None
    films: RefusedFilms | None = None
    concept: tuple[ConceptResult, ...] = ()
    shift: LabelShift | None = None
    rates: dict[Family, float] = field(default_factory=dict)


def judge(window: Window, reference: Reference, notes: tuple[str, ...] = ()) -> Judgement:
    """Judge a window."""
    table, smallest = window.table, reference.thresholds.smallest
    if len(table) < smallest:
        return _too_small(window, reference, notes)
    films, concept = _films(window, reference), _concept(window, reference)
    if not concept:
        notes = (*notes, _too_few_labels(window.n_labelled, smallest))
    rates = _rates(reference.params.false_alarm_rate, films is not None, bool(concept))
    limits = Limits(reference.thresholds, len(table), rates["data"], _alarmed(window.before))
    checks = score_window(table, reference.table, reference.checks, reference.thresholds)
    findings = reference.task.finding_names
    prevalence = score_prevalence(table, reference.table, findings, reference.params.seed)
    data = data_reasons(checks, reference, table, limits)
    refused = tested_reason(FILMS, films, rates.get("films", 0.0), limits.held)
    shifted = tested_reason(PREVALENCE, prevalence, rates["prevalence"], limits.held)
    shift = _explaining(table, reference, limits) if shifted else None
    if shift is not None and data:
        shifted = [shift_reason(shift, data[0])]
    worse = concept_reasons(concept, rates.get("concept", 0.0), limits.held)
    moved = [*data, *refused, *shifted]
    reasons = tuple(in_order([*moved, *worse], first=PREVALENCE if shift else None))
    meaning = interpretation(bool(moved), bool(worse) if concept else None)
    headline = f"{window.studies} studies, {window.n_labelled} labelled. "
    headline += f"First: {reasons[0].text}. {meaning}." if reasons else f"{meaning}."
    verdict = _verdict(worst(reasons), window, reference, headline, reasons, notes)
    return Judgement(verdict, checks, prevalence, films, concept, shift, rates)


def _too_small(window: Window, reference: Reference, notes: tuple[str, ...]) -> Judgement:
    """Of few studies only the refused films can be judged, which may be why they are so few."""
    films = _films(window, reference)
    rates = _rates(reference.params.false_alarm_rate, films is not None, concept=False)
    refused = tested_reason(FILMS, films, rates.get("films", 0.0), _alarmed(window.before))
    few = (
        f"{len(window.table)} studies are too few to judge; at least "
        f"{reference.thresholds.smallest} are needed"
    )
    headline = f"First: {refused[0].text}. Of the rest, {few}" if refused else few
    status = worst(tuple(refused)) if refused else "too_small"
    verdict = _verdict(status, window, reference, headline, tuple(refused), notes)
    return Judgement(verdict, films=films)


def _rates(whole: float, films: bool, concept: bool) -> dict[Family, float]:
    """Parts of the rate; a window after a false alarm alarms again with a chance of twice the
    rate, so windows alarm a little more often than they begin to."""
    judged = {"concept": concept, "films": films}
    parts = {family: part for family, part in PARTS.items() if judged.get(family, True)}
    begins = whole / (1 + whole)
    return {family: begins * part / sum(parts.values()) for family, part in parts.items()}


def _films(window: Window, reference: Reference) -> RefusedFilms | None:
    if not reference.task.has_image:
        return None
    refused = sum(event.kind == "refused_film" for event in window.events)
    films = refused + int((window.table["has.image"] == "yes").sum())
    return score_refused(refused, films, reference.films_refused, reference.films)


def _concept(window: Window, reference: Reference) -> tuple[ConceptResult, ...]:
    """Of the window, and of the longer one where that has more labels; they share the rate."""
    findings, least = reference.task.finding_names, reference.thresholds.smallest
    tables = {False: window.labelled}
    if len(window.longer) > len(window.labelled):
        tables[True] = window.longer
    results = {
        longer: score_concept(table, reference.table, findings, reference.params.seed)
        for longer, table in tables.items()
        if len(table) >= least
    }
    found = {longer: result for longer, result in results.items() if result is not None}
    return tuple(
        replace(result, longer=longer, part=1 / len(found) / (LASTS if longer else 1))
        for longer, result in found.items()
    )


def _explaining(table: pd.DataFrame, reference: Reference, limits: Limits) -> LabelShift | None:
    """The change of prevalence that explains what moved, if one does: against the reference weighed
    to it nothing is left beyond its limit."""
    shift = label_shift(table, reference.table, reference.task)
    if shift is None:
        return None
    left = score_window(
        table, reference.table, reference.checks, reference.thresholds, shift.weights
    )
    return shift if left[0].score <= limits.alarm else None


def _alarmed(before: Verdict | None) -> frozenset[str]:
    """Names of what alarmed in the window before."""
    reasons = () if before is None else before.reasons
    return frozenset(reason.name for reason in reasons if reason.level == "alarm")


def _verdict(
    status: str,
    window: Window,
    reference: Reference,
    headline: str,
    reasons: tuple[Reason, ...],
    notes: tuple[str, ...],
) -> Verdict:
    times = window.table["created_at"]
    return Verdict.model_validate(
        {
            "status": status,
            "task": reference.task.name,
            "digest": reference.digest,
            "n": window.studies,
            "n_labelled": window.n_labelled,
            "first": None if times.empty else times.min().isoformat(),
            "last": None if times.empty else times.max().isoformat(),
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
