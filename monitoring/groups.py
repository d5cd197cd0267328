"""Subgroups: performance of each on the labelled studies against the same group of the reference.

They inform and never alarm: with many small groups one or the other always looks worse.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.traits import YEARS, age_bands
from cxr_mm.params import EvaluateParams
from monitoring.concept import MetricResult, score_concept
from monitoring.reference import Reference

RATE = 0.05
"""Chance that an undrifted group is marked, all groups together (Bonferroni)."""


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
    """Score every subgroup that is large enough on both sides."""
    smallest = EvaluateParams().smallest_group
    task = reference.task
    here, there = dict(_groups(labelled, task)), dict(_groups(reference.table, task))
    found = []
    for key in here:
        if min(len(here[key]), len(there.get(key, ()))) < smallest:
            continue
        result = score_concept(here[key], there[key], task.finding_names, reference.params.seed)
        if result is not None:
            found.append((key, len(here[key]), result))
    return [
        GroupResult(*key, n, result.metrics, result.limit(RATE / len(found)))
        for key, n, result in found
    ]


def _groups(table: pd.DataFrame, task: Task) -> Iterator[tuple[tuple[str, str], pd.DataFrame]]:
    """(characteristic, level) → its rows."""
    for title, levels in _characteristics(table, task).items():
        for level, rows in table.groupby(levels, observed=True):
            yield (title, str(level)), rows


def _characteristics(table: pd.DataFrame, task: Task) -> "dict[str, pd.Series[str]]":
    """Title → level of each row, missing where not known."""
    found: dict[str, pd.Series[str]] = {}
    asked = EvaluateParams().characteristics
    for feature in task.clinical:
        values = table[f"clinical.{feature.name}"]
        if feature.name in asked and feature.type == "category":
            found[feature.title] = values
        elif feature.name == "age" and feature.unit in YEARS:
            found[feature.title] = age_bands(values, EvaluateParams().age_bands)
    if task.has_image:
        found["View position"] = table["view"]
    return found
