"""Diagnostics: subgroups, service figures and streaming change detectors; none raises an alarm.

With many small subgroups and detectors, one or the other always looks worse.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
from river.drift import ADWIN, PageHinkley
from river.drift.binary import DDM

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.evaluation.traits import SMALLEST_GROUP, YEARS, age_bands
from cxr_mm.prediction_log.windows import ServiceCount
from monitoring.concept_drift import MetricResult, score_concept
from monitoring.reference import Reference

RATE = 0.05
"""Chance that any undrifted group is marked (Bonferroni)."""


@dataclass(frozen=True)
class GroupResult:
    """Performance of a subgroup.

    Args:
        characteristic, level: which studies, as sex and F.
        n: labelled studies of the group.
        metrics: of the group, most changed first.
        limit: score above which a metric is marked.
    """

    characteristic: str
    level: str
    n: int
    metrics: tuple[MetricResult, ...]
    limit: float


def score_groups(labelled: pd.DataFrame, reference: Reference) -> list[GroupResult]:
    """Score every subgroup that is large enough in window and reference."""
    task = reference.task
    now, before = dict(_groups(labelled, task)), dict(_groups(reference.table, task))
    scored = []
    for key in now:
        if min(len(now[key]), len(before.get(key, ()))) < SMALLEST_GROUP:
            continue
        result = score_concept(now[key], before[key], task.finding_names, reference.params.seed)
        if result is not None:
            scored.append((key, len(now[key]), result))
    return [
        GroupResult(*key, n, result.metrics, result.limit(RATE / len(scored)))
        for key, n, result in scored
    ]


def _groups(table: pd.DataFrame, task: Task) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(characteristic, level) → its rows."""
    for title, levels in _characteristics(table, task).items():
        for level, rows in table.groupby(levels, observed=True):
            yield (title, str(level)), rows


def _characteristics(table: pd.DataFrame, task: Task) -> "dict[str, pd.Series[str]]":
    """Title → level of each row, missing where not known."""
    levels: dict[str, pd.Series[str]] = {}
    reported = EvaluateParams().characteristics
    for feature in task.clinical:
        values = table[f"clinical.{feature.name}"]
        if feature.name in reported and feature.type == "category":
            levels[feature.title] = values
        elif feature.name == "age" and feature.unit in YEARS:
            levels[feature.title] = age_bands(values)
    if task.has_image:
        levels["View position"] = table["view"]
    return levels


HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Service:
    """Request counts and latency of a window.

    Args:
        hours: counts of each hour with a request, in order.
        predictions: answered requests.
        refused, bad_input, failures: requests without an answer, by reason.
        slowest: the highest of the hours' 95th percentiles of latency, in ms.
        longest_gap: longest stretch without any request, bounds of the window included, in hours.
    """

    hours: tuple[ServiceCount, ...]
    predictions: int
    refused: int
    bad_input: int
    failures: int
    slowest: float | None
    longest_gap: float

    def facts(self) -> dict[str, Any]:
        """Plain values."""
        return {
            **{k: v for k, v in asdict(self).items() if k != "hours"},
            "hours": [{**asdict(hour), "start": hour.start.isoformat()} for hour in self.hours],
        }


def service(hours: Sequence[ServiceCount], since: datetime | None, until: datetime) -> Service:
    """Sum up the hours of a window."""
    slow = [hour.latency_p95 for hour in hours if hour.latency_p95 is not None]
    return Service(
        hours=tuple(hours),
        predictions=sum(hour.records for hour in hours),
        refused=sum(hour.events.get("rejected_image", 0) for hour in hours),
        bad_input=sum(hour.events.get("bad_input", 0) for hour in hours),
        failures=sum(hour.events.get("failure", 0) for hour in hours),
        slowest=max(slow, default=None),
        longest_gap=_longest_gap(hours, since, until),
    )


def _longest_gap(hours: Sequence[ServiceCount], since: datetime | None, until: datetime) -> float:
    """Longest time in hours between two hours with a request."""
    starts = [hour.start for hour in hours]
    ends = [start + HOUR for start in starts]
    before = [since or (starts[0] if starts else until), *ends]
    gaps = [(start - end) / HOUR for end, start in zip(before, [*starts, until], strict=True)]
    return max(0.0, *gaps)


DETECTORS: dict[str, Callable[[], Any]] = {
    "ADWIN": lambda: ADWIN(delta=0.002),
    "Page-Hinkley": lambda: PageHinkley(threshold=10.0, mode="up"),
    "DDM": lambda: DDM(warm_start=30),
}


@dataclass(frozen=True)
class ChangePoint:
    """Change of the error rate of a finding, as one detector dates it.

    Args:
        finding, detector: names.
        study: number of the labelled study, from 1, of the first detection; None without one.
        when: time of that study's prediction.
        n: labelled studies in the stream.
    """

    finding: str
    detector: str
    study: int | None
    when: datetime | None
    n: int


def detect(
    stream: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> list[ChangePoint]:
    """Run every detector over the labelled studies in the order of their predictions."""
    rng = np.random.default_rng(seed)
    ordered = stream.sort_values("created_at", kind="stable")
    return [
        _run(ordered, _errors(reference, name)[1], name, detector, rng)
        for name in findings
        for detector in DETECTORS
    ]


def _run(
    stream: pd.DataFrame,
    reference_errors: "np.ndarray[Any, Any]",
    finding: str,
    detector: str,
    rng: np.random.Generator,
) -> ChangePoint:
    drift_detector = DETECTORS[detector]()
    for error in rng.permutation(reference_errors):
        drift_detector.update(int(error))
    times, errors = _errors(stream, finding)
    for i, error in enumerate(errors):
        drift_detector.update(int(error))
        if drift_detector.drift_detected:
            return ChangePoint(finding, detector, i + 1, times.iloc[i], len(errors))
    return ChangePoint(finding, detector, None, None, len(errors))


def _errors(table: pd.DataFrame, finding: str) -> "tuple[pd.Series[Any], np.ndarray[Any, Any]]":
    """Times and errors (1 wrong, 0 right) of the labelled studies."""
    known = table[table[f"label.{finding}"].notna() & table[f"positive.{finding}"].notna()]
    wrong = (known[f"positive.{finding}"] == "yes") != (known[f"label.{finding}"] == 1)
    return known["created_at"], wrong.to_numpy(int)
