"""Verdict: evaluate a window against the reference, with every figure behind the verdict.

Data, prevalence, rejected images and concept share the false-alarm rate. A reason that alarmed in
the window before stays an alarm until it falls below the limit of a warning, so that a verdict does
not flicker; the rate allows for that.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Literal

import numpy as np
import pandas as pd

from cxr_mm.core.record import ServiceEvent
from cxr_mm.core.types import plural
from cxr_mm.core.verdict import Level, Reason, Status, Verdict, most_severe
from monitoring.concept_drift import ConceptResult, MetricResult, score_concept
from monitoring.data_drift import CheckResult, score_window
from monitoring.reference import Reference
from monitoring.shift_tests import (
    REJECTED_TITLE,
    LabelShift,
    PredictedPrevalence,
    RejectedImages,
    label_shift,
    score_prevalence,
    score_rejected,
)
from monitoring.statistics import normal_limit

METRIC_NAMES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "calibration": "mean probability minus share of positives",
}
IMAGES, PREVALENCE = "images.rejected", "prevalence"
FOLLOWS = {
    "image_pc": 0.25,
    "note_pc": 0.25,
    **dict.fromkeys(("share", "probability", "positive", "certainty", PREVALENCE), 0.1),
}
"""Group of downstream columns → weight of its score in the order of reasons."""
WARN_FACTOR = 2
"""False-alarm rate of a warning, as a multiple of that of an alarm."""


@dataclass(frozen=True)
class Limits:
    """Scores above which a check, test or metric of a window warns and alarms.

    Args:
        limit: false-alarm rate → score that an undrifted window exceeds with that chance.
        rate: false-alarm rate of an alarm.
        held: names of reasons that alarmed in the window before, and stay alarms above `warn`.
    """

    limit: Callable[[float], float]
    rate: float
    held: frozenset[str] = frozenset()

    @cached_property
    def alarm(self) -> float:
        """Score above which a reason alarms."""
        return self.limit(self.rate)

    @cached_property
    def warn(self) -> float:
        """Score above which a reason warns."""
        return self.limit(WARN_FACTOR * self.rate)

    def level(self, score: float, name: str = "") -> Level | None:
        """Level of a score; None within the limits."""
        alarm = self.warn if name in self.held else self.alarm
        return "alarm" if score > alarm else "warn" if score > self.warn else None

    def reason(
        self,
        drift: Literal["data", "concept"],
        name: str,
        score: float,
        title: str,
        change: Callable[[], str],
    ) -> list[Reason]:
        """One reason, or none within the limits; `change` describes what moved."""
        level = self.level(score, name)
        if level is None:
            return []
        limit = self.alarm if level == "alarm" else self.warn
        text = f"{title}: {change()}"
        return [
            Reason(
                drift=drift,
                name=name,
                title=title,
                level=level,
                score=score,
                limit=limit,
                text=text,
            )
        ]


def concept_reasons(
    results: Sequence[ConceptResult], rate: float, held: frozenset[str]
) -> list[Reason]:
    """Reasons of metrics that got worse beyond their limit, each once, in order."""
    reasons: dict[str, Reason] = {}
    for result in results:
        limits = Limits(result.limit, rate, held)
        for metric in result.metrics:
            name, change = f"{metric.finding}.{metric.metric}", partial(describe_metric, metric)
            for reason in limits.reason("concept", name, metric.score, metric.finding, change):
                if name not in reasons or _severity(reason) > _severity(reasons[name]):
                    reasons[name] = reason
    return in_order(reasons.values())


def in_order(reasons: Iterable[Reason], first: str | None = None) -> list[Reason]:
    """Sort reasons: alarms first, then inputs before what follows from them.

    The reason named `first` explains all others of its level.
    """
    return sorted(
        reasons, key=lambda r: (r.level != "alarm", r.name != first, -r.score * _weight(r))
    )


def _weight(reason: Reason) -> float:
    """Embeddings react to any change of an image or note, and predictions to any change at all, so
    they name a cause less well than a measured input."""
    if reason.drift == "concept":
        return 1.0
    group = reason.name.rpartition("/")[2].split(".")[0]  # behind the site, where it has one
    return FOLLOWS.get(group, 1.0)


def _severity(reason: Reason) -> tuple[bool, float]:
    return reason.level == "alarm", reason.score


def title_of(result: CheckResult) -> str:
    """Title of a check for people."""
    first = result.check.columns[0]
    if result.check.method == "embedding":
        return f"{first.title.split(',')[0]} as a whole"
    return f"{first.title}, missing share" if result.check.method == "missing" else first.title


def describe(result: CheckResult, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """Describe how the columns of a check moved."""
    names = [c.name for c in result.check.columns]
    if result.check.method == "embedding":
        return _describe_points(reference[names], current[names])
    before, after = reference[names[0]], current[names[0]]
    if result.check.method == "missing":
        return f"missing {_percent(before.isna().mean())} → {_percent(after.isna().mean())}"
    if before.dropna().empty or after.dropna().empty:
        return "no value to compare"
    if result.check.method == "number":
        spread = float(before.std()) or 1.0
        return (
            f"median {before.median():.3g} → {after.median():.3g} "
            f"(mean moved by {(after.mean() - before.mean()) / spread:+.2f} SD)"
        )
    return _describe_categories(before, after)


def describe_metric(metric: MetricResult) -> str:
    """Describe a metric against the reference, with the interval of undrifted windows."""
    usual = (
        "too few patients for an interval"
        if metric.low is None
        else f"95 % of undrifted windows: {metric.low:.3f} to {metric.high:.3f}"
    )
    return (
        f"{METRIC_NAMES[metric.metric]} {metric.reference:.3f} → {metric.current:.3f} ({usual}; "
        f"{metric.n} labelled)"
    )


def interpretation(data: bool, concept: bool | None) -> str:
    """Interpret data and concept drift together; `concept` is None without enough labels."""
    if concept is None:
        if data:
            return (
                "Inputs or predictions moved; without labels it is unknown whether the model is "
                "still accurate. Look at the first reasons and collect labels for this window"
            )
        return "Inputs and predictions look like the reference; no labels to test the model with"
    if data and concept:
        return (
            "Inputs moved and the model does worse on the labelled studies: the change of inputs "
            "may explain it. Look at the first data reasons before retraining"
        )
    if concept:
        return (
            "Inputs look as before, yet the model does worse: the same inputs now mean other "
            "labels (or labels are made differently). Check the labels, then retrain"
        )
    if data:
        return (
            "Inputs or predictions moved, but the model does not do measurably worse on the "
            "labelled studies. Find out what changed; no need to retrain yet"
        )
    return "Inputs, predictions and performance look like the reference"


def _describe_categories(before: pd.Series, after: pd.Series) -> str:
    old, new = before.value_counts(normalize=True), after.value_counts(normalize=True)
    names = old.index.union(new.index)
    change = (new.reindex(names, fill_value=0) - old.reindex(names, fill_value=0)).abs()
    name = change.idxmax()
    return f"{name!r} {_percent(old.get(name, 0.0))} → {_percent(new.get(name, 0.0))}"


def _describe_points(before: pd.DataFrame, after: pd.DataFrame) -> str:
    old, new = before.dropna().to_numpy(float), after.dropna().to_numpy(float)
    if not len(old) or not len(new):
        return "no embedding to compare"
    shift = float(np.linalg.norm(new.mean(axis=0) - old.mean(axis=0)))
    spread = float(new.std() / (old.std() or 1.0))
    return f"centre moved by {shift:.2f} SD, spread {spread:.2f} times that of the reference"


def _percent(share: float) -> str:
    return f"{100 * float(share):.0f} %"


Family = Literal["data", "prevalence", "concept", "images"]
PARTS: dict[Family, float] = {"data": 4, "prevalence": 2, "concept": 3, "images": 1}
"""How the false-alarm rate is divided; a family that cannot be tested leaves its part to the
others."""

LASTS = 2
"""Windows that a false alarm of the longer window lasts, since it shares most studies with the next
one: on 540 undrifted windows of synthetic studies 9 of the concept lasted 17 windows in all."""


@dataclass(frozen=True)
class Window:
    """Studies of a window that are evaluated.

    Args:
        table: one row per study, as `newest_per_study` gives it; a sample of a large window.
        labelled: labelled studies of the window for the concept tests.
        longer: labelled studies of this window and of those before it, in which small changes of
            the concept add up; empty without windows before.
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
class DriftReport:
    """A verdict and the figures behind it.

    Args:
        verdict: the verdict.
        checks: every data check, highest score first; empty where the window is too small.
        prevalence: mean predicted probabilities; None where the window is too small.
        images: rejected images; None without an image.
        concept: every metric of the window, then of the longer window; empty where there are too
            few labels.
        shift: the change of prevalence that would explain the data, where one does.
        rates: family → its part of the false-alarm rate.
        limits: of the data checks; None where the window is too small.
    """

    verdict: Verdict
    checks: list[CheckResult] = field(default_factory=list)
    prevalence: PredictedPrevalence | None = None
    images: RejectedImages | None = None
    concept: tuple[ConceptResult, ...] = ()
    shift: LabelShift | None = None
    rates: dict[Family, float] = field(default_factory=dict)
    limits: Limits | None = None


@dataclass(frozen=True)
class Scores:
    """What is measured in a window, whatever the false-alarm rate.

    Args:
        checks, prevalence, images, concept: as of DriftReport.
    """

    images: RejectedImages | None
    checks: list[CheckResult] = field(default_factory=list)
    prevalence: PredictedPrevalence | None = None
    concept: tuple[ConceptResult, ...] = ()


def score(window: Window, reference: Reference) -> Scores:
    """Score a window against the reference; of a small one, the rejected images alone."""
    table, images = window.table, _images(window, reference)
    if len(table) < reference.thresholds.smallest:
        return Scores(images)
    findings, seed = reference.task.finding_names, reference.params.seed
    return Scores(
        images=images,
        checks=score_window(table, reference.table, reference.checks, reference.thresholds),
        prevalence=score_prevalence(table, reference.table, findings, seed),
        concept=_concept(window, reference),
    )


def evaluate_window(
    window: Window, reference: Reference, notes: tuple[str, ...] = ()
) -> DriftReport:
    """Evaluate a window against the reference."""
    rate = reference.params.false_alarm_rate
    return decide(score(window, reference), window, reference, rate, notes)


def decide(
    scores: Scores, window: Window, reference: Reference, rate: float, notes: tuple[str, ...]
) -> DriftReport:
    """Decide which scores are reasons, so that a window without drift alarms at `rate`."""
    table, smallest = window.table, reference.thresholds.smallest
    notes = (*notes, *reference.unjudged)
    images, concept, prevalence = scores.images, scores.concept, scores.prevalence
    if prevalence is None:
        return _too_small(scores, window, reference, rate, notes)
    if not concept:
        notes = (*notes, _too_few_labels(window.n_labelled, smallest))
    rates = _rates(rate, images is not None, bool(concept))
    held = _alarmed(window.before)
    limits = Limits(partial(reference.thresholds.limit, len(table)), rates["data"], held)
    data = in_order(
        reason
        for check in scores.checks
        for reason in limits.reason(
            "data",
            check.check.name,
            check.score,
            title_of(check),
            partial(describe, check, reference.table, table),
        )
    )
    refused = _rejected(images, rates.get("images", 0.0), held)
    shifted = Limits(normal_limit, rates["prevalence"], held).reason(
        "data", PREVALENCE, prevalence.score, "Prevalence", lambda: prevalence.change
    )
    shift = _explanation(table, reference, limits) if shifted else None
    if shift is not None and data:  # prevalence is as severe as the reason that it explains
        named = {"name": PREVALENCE, "title": "Prevalence", "text": shift.text}
        shifted = [data[0].model_copy(update=named)]
    worse = concept_reasons(concept, rates.get("concept", 0.0), held)
    moved = [*data, *refused, *shifted]
    reasons = tuple(in_order([*moved, *worse], first=PREVALENCE if shift else None))
    meaning = interpretation(bool(moved), bool(worse) if concept else None)
    headline = f"{plural(window.studies, 'study')}, {window.n_labelled:,} labelled. "
    headline += f"First: {reasons[0].text}. {meaning}." if reasons else f"{meaning}."
    verdict = _verdict(most_severe(reasons), window, reference, headline, reasons, notes)
    return DriftReport(verdict, scores.checks, prevalence, images, concept, shift, rates, limits)


def _too_small(
    scores: Scores, window: Window, reference: Reference, rate: float, notes: tuple[str, ...]
) -> DriftReport:
    """A small window: only rejected images are tested, which may be why it is small."""
    images = scores.images
    rates = _rates(rate, images is not None, concept=False)
    refused = tuple(_rejected(images, rates.get("images", 0.0), _alarmed(window.before)))
    few = f"{plural(len(window.table), 'study')}: too few to judge"
    if reference.thresholds.windows:
        few += f"; at least {reference.thresholds.smallest} are needed"
    else:
        few = f"no window can be judged: {reference.unjudged[-1]}"
    headline = f"First: {refused[0].text}. Of the rest, {few}" if refused else few
    status = most_severe(refused) if refused else "too_small"
    verdict = _verdict(status, window, reference, headline, refused, notes)
    return DriftReport(verdict, images=images)


def _rejected(images: RejectedImages | None, rate: float, held: frozenset[str]) -> list[Reason]:
    if images is None:
        return []
    limits = Limits(normal_limit, rate, held)
    return limits.reason("data", IMAGES, images.score, REJECTED_TITLE, lambda: images.change)


def _rates(whole: float, images: bool, concept: bool) -> dict[Family, float]:
    """Parts of the rate; a window after a false alarm alarms again with a chance of twice the
    rate, so windows alarm a little more often than they begin to."""
    available = {"concept": concept, "images": images}
    parts = {family: part for family, part in PARTS.items() if available.get(family, True)}
    begins = whole / (1 + whole)
    return {family: begins * part / sum(parts.values()) for family, part in parts.items()}


def _images(window: Window, reference: Reference) -> RejectedImages | None:
    if not reference.task.has_image or reference.images_rejected is None:
        return None
    refused = sum(event.kind == "rejected_image" for event in window.events)
    images = refused + int((window.table["has.image"] == "yes").sum())
    return score_rejected(refused, images, reference.images_rejected, reference.images)


def _concept(window: Window, reference: Reference) -> tuple[ConceptResult, ...]:
    """Test the window, and the longer one if it has more labels; they share the rate."""
    findings, least = reference.task.finding_names, reference.thresholds.smallest
    tables = {False: window.labelled}
    if len(window.longer) > len(window.labelled):
        tables[True] = window.longer
    results = {
        longer: score_concept(table, reference.table, findings, reference.params.seed)
        for longer, table in tables.items()
        if len(table) >= least
    }
    scored = {longer: result for longer, result in results.items() if result is not None}
    return tuple(
        replace(result, longer=longer, part=1 / len(scored) / (LASTS if longer else 1))
        for longer, result in scored.items()
    )


def _explanation(table: pd.DataFrame, reference: Reference, limits: Limits) -> LabelShift | None:
    """The change of prevalence that explains the data drift, if any: against the reference weighted
    by it no check exceeds its limit."""
    shift = label_shift(table, reference.table, reference.task)
    if shift is None:
        return None
    remaining = score_window(
        table, reference.table, reference.checks, reference.thresholds, shift.weights
    )
    return shift if remaining[0].score <= limits.alarm else None


def _alarmed(before: Verdict | None) -> frozenset[str]:
    """Names of the reasons that alarmed in the window before."""
    reasons = () if before is None else before.reasons
    return frozenset(reason.name for reason in reasons if reason.level == "alarm")


def _verdict(
    status: Status,
    window: Window,
    reference: Reference,
    headline: str,
    reasons: tuple[Reason, ...],
    notes: tuple[str, ...],
) -> Verdict:
    times = window.table["created_at"]
    return Verdict(
        status=status,
        task=reference.task.name,
        digest=reference.digest,
        n=window.studies,
        n_labelled=window.n_labelled,
        first=None if times.empty else times.min().isoformat(),
        last=None if times.empty else times.max().isoformat(),
        headline=headline,
        reasons=reasons,
        notes=notes,
    )


def _too_few_labels(n_labelled: int, smallest: int) -> str:
    if n_labelled < smallest:
        return (
            f"Concept drift was not tested: {plural(n_labelled, 'labelled study')}, at least "
            f"{smallest} are needed"
        )
    return "Concept drift was not tested: too few of one class among the labels"
