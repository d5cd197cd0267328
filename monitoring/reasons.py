"""Scores → reasons in words: what moved, from where to where, and what it may mean."""

import numpy as np
import pandas as pd

from cxr_mm.contracts.verdict import Level, Reason
from monitoring.concept import ConceptResult, MetricResult
from monitoring.drift import CheckResult
from monitoring.reference import Reference

METRIC_NAMES = {
    "auc": "AUC",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score",
    "calibration": "mean probability minus share of positives",
}
WARN_FACTOR = 2
"""A warning may be raised this many times as often without drift as an alarm."""


def level_of(score: float, warn: float, alarm: float) -> Level | None:
    """How grave a score is."""
    return "alarm" if score > alarm else "warn" if score > warn else None


def data_reasons(
    results: list[CheckResult], reference: Reference, current: pd.DataFrame, rate: float
) -> tuple[Reason, ...]:
    """Checks that moved further than undrifted windows do, highest score first."""
    alarm = reference.thresholds.limit(len(current), rate)
    warn = reference.thresholds.limit(len(current), WARN_FACTOR * rate)
    return tuple(
        Reason(
            drift="data",
            name=result.check.name,
            title=title_of(result),
            level=level,
            score=result.score,
            limit=alarm if level == "alarm" else warn,
            text=f"{title_of(result)}: {describe(result, reference.table, current)}",
        )
        for result in results
        if (level := level_of(result.score, warn, alarm))
    )


def concept_reasons(result: ConceptResult | None, rate: float) -> tuple[Reason, ...]:
    """Metrics that got worse than in undrifted windows, highest score first."""
    if result is None:
        return ()
    alarm, warn = result.limit(rate), result.limit(WARN_FACTOR * rate)
    return tuple(
        Reason(
            drift="concept",
            name=f"{metric.finding}.{metric.metric}",
            title=f"{metric.finding}: {METRIC_NAMES[metric.metric]}",
            level=level,
            score=metric.score,
            limit=alarm if level == "alarm" else warn,
            text=describe_metric(metric),
        )
        for metric in result.metrics
        if (level := level_of(metric.score, warn, alarm))
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
