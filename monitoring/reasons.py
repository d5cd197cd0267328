"""Scores → reasons in words: what moved, from where to where, and what it may mean."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from cxr_mm.contracts.verdict import Level, Reason
from monitoring.concept import ConceptResult, MetricResult
from monitoring.drift import CheckResult, Thresholds
from monitoring.films import RefusedFilms
from monitoring.label_shift import LabelShift
from monitoring.prevalence import PredictedPrevalence
from monitoring.reference import Reference
from monitoring.statistics import normal_limit

METRIC_NAMES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "calibration": "mean probability minus share of positives",
}
FILMS, PREVALENCE = "films.refused", "prevalence"
FOLLOWS = {
    "image_pc": 0.25,
    "note_pc": 0.25,
    **dict.fromkeys(("share", "probability", "positive", "certainty", PREVALENCE), 0.1),
}
"""Group of what follows from other things → what its score counts in the order of reasons."""
WARN_FACTOR = 2
"""A warning may be raised this many times as often without drift as an alarm."""


@dataclass(frozen=True)
class Limits:
    """Scores at which data checks of a window of one size warn and alarm.

    Args:
        thresholds: learnt ones.
        size: studies of the window.
        rate: false-alarm rate.
        held: names of what alarmed in the window before, and stays an alarm above `warn`.
    """

    thresholds: Thresholds
    size: int
    rate: float
    held: frozenset[str] = frozenset()

    @cached_property
    def alarm(self) -> float:
        """Score above which a check alarms."""
        return self.thresholds.limit(self.size, self.rate)

    @cached_property
    def warn(self) -> float:
        """Score above which a check warns."""
        return self.thresholds.limit(self.size, WARN_FACTOR * self.rate)


def level_of(score: float, warn: float, alarm: float, held: bool = False) -> Level | None:
    """How grave a score is; `held`: it alarmed in the window before."""
    return "alarm" if score > (warn if held else alarm) else "warn" if score > warn else None


def data_reasons(
    results: Sequence[CheckResult], reference: Reference, current: pd.DataFrame, limits: Limits
) -> list[Reason]:
    """Checks that moved further than undrifted windows do, in order."""
    return in_order(
        Reason(
            drift="data",
            name=result.check.name,
            title=title_of(result),
            level=level,
            score=result.score,
            limit=limits.alarm if level == "alarm" else limits.warn,
            text=f"{title_of(result)}: {describe(result, reference.table, current)}",
        )
        for result in results
        if (level := _level(result, limits))
    )


def _level(result: CheckResult, limits: Limits) -> Level | None:
    held = result.check.name in limits.held
    return level_of(result.score, limits.warn, limits.alarm, held)


def tested_reason(
    name: str, tested: RefusedFilms | PredictedPrevalence | None, rate: float, held: frozenset[str]
) -> list[Reason]:
    """What has a test of its own, if it moved further than it does in undrifted windows."""
    if tested is None:
        return []
    alarm, warn = normal_limit(rate), normal_limit(WARN_FACTOR * rate)
    level = level_of(tested.score, warn, alarm, name in held)
    return [] if level is None else [_reason("data", name, tested.text, tested.score, level, alarm)]


def concept_reasons(
    results: Sequence[ConceptResult], rate: float, held: frozenset[str]
) -> list[Reason]:
    """Metrics that got worse than in undrifted windows, each once, in order."""
    found: dict[str, Reason] = {}
    for result in results:
        alarm, warn = result.limit(rate), result.limit(WARN_FACTOR * rate)
        for metric in result.metrics:
            name = f"{metric.finding}.{metric.metric}"
            level = level_of(metric.score, warn, alarm, name in held)
            if level is None:
                continue
            text = describe_metric(metric)
            reason = _reason("concept", name, text, metric.score, level, alarm)
            if name not in found or _grave(reason) > _grave(found[name]):
                found[name] = reason
    return in_order(found.values())


def shift_reason(shift: LabelShift, first: Reason) -> Reason:
    """Prevalence as the first reason, as grave as what it explains."""
    return first.model_copy(update={"name": PREVALENCE, "title": "Prevalence", "text": shift.text})


def in_order(reasons: Iterable[Reason], first: str | None = None) -> list[Reason]:
    """Alarms first; among equals what was measured at the entrance before what follows from it.

    A reason called `first` explains all the others that are no graver.
    """
    return sorted(
        reasons, key=lambda r: (r.level != "alarm", r.name != first, -r.score * _weight(r))
    )


def _weight(reason: Reason) -> float:
    """Embeddings feel any change of a film or note, and the model's answers any change at all, so
    they name a cause less well than what was measured at the entrance."""
    if reason.drift == "concept":
        return 1.0
    group = reason.name.split(".")[0]
    return FOLLOWS.get(group, 1.0)


def _grave(reason: Reason) -> tuple[bool, float]:
    return reason.level == "alarm", reason.score


def _reason(
    drift: Literal["data", "concept"],
    name: str,
    text: str,
    score: float,
    level: Level,
    limit: float,
) -> Reason:
    title = text.split(":")[0]
    return Reason(
        drift=drift, name=name, title=title, level=level, score=score, limit=limit, text=text
    )


def title_of(result: CheckResult) -> str:
    """A check as a person reads it."""
    first = result.check.columns[0]
    if result.check.method == "embedding":
        return f"{first.title.split(',')[0]} as a whole"
    return f"{first.title}, missing share" if result.check.method == "missing" else first.title


def describe(result: CheckResult, reference: pd.DataFrame, current: pd.DataFrame) -> str:
    """From where to where a check's columns moved."""
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
    """A metric against reference, with what undrifted windows show."""
    return (
        f"{metric.finding}: {METRIC_NAMES[metric.metric]} {metric.reference:.3f} → "
        f"{metric.current:.3f} (95 % of undrifted windows: {metric.low:.3f} to {metric.high:.3f}; "
        f"{metric.n} labelled)"
    )


def interpretation(data: bool, concept: bool | None) -> str:
    """What the two kinds of drift mean together; None = no label to judge by."""
    if concept is None:
        if data:
            return (
                "Inputs or predictions moved; without labels nobody can say whether the model "
                "still holds. Look at the first reasons and bring labels for this window"
            )
        return "Inputs and predictions look like the reference; no labels to judge the model by"
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
