"""Paired differences between predictions of the same studies: the bootstrap over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.figures import AVAILABLE, FUSED
from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.intervals import Estimate, mean_of, multiplicities
from cxr_mm.evaluation.metrics import Scored, auc, average_precision, counted
from cxr_mm.evaluation.subsets import scored_of, subset_rows
from cxr_mm.params import EvaluateParams

Weights = NDArray[np.uint16]


def difference(
    task: Task,
    ours: Sequence[pd.DataFrame],
    theirs: Sequence[pd.DataFrame],
    inputs: str,
    metric: str,
    params: EvaluateParams,
) -> Estimate | None:
    """A metric of `ours` minus that of `theirs`; None where they are not of the same studies.

    Args:
        task: whose findings are averaged over.
        ours, theirs: held-out predictions as `fuse` leaves them, a table for each division.
        inputs: a subset of modalities, or `fused`.
        metric: `auc`, `average_precision` or one that counts, as `accuracy`.
        params: resamples and seed.
    """
    subset = AVAILABLE if inputs == FUSED else inputs
    first, second = ([subset_rows(table, subset) for table in side] for side in (ours, theirs))
    keys = ["study_id", "group"]
    if first[0].empty or not first[0][keys].equals(second[0][keys]):
        return None
    weights = multiplicities(first[0]["group"], params.bootstrap, params.seed)
    means = [
        mean_of([_estimate(task, rows, metric, weights) for rows in side])
        for side in (first, second)
    ]
    return means[0] - means[1]


def _estimate(task: Task, rows: pd.DataFrame, metric: str, weights: Weights) -> Estimate:
    if task.problem == "multiclass" and metric == "accuracy":
        return _of(_right_class(task, rows), metric, weights)
    found = []
    for finding in task.finding_names:
        scored, kept = scored_of(rows, finding)
        found.append(_of(scored, metric, weights[:, kept]))
    return mean_of(found)


def _of(scored: Scored, metric: str, weights: Weights) -> Estimate:
    if metric in ("auc", "average_precision"):
        measure = auc if metric == "auc" else average_precision
        return Estimate(float(measure(scored)[0]), measure(scored, weights))
    return Estimate(float(counted(scored)[metric][0]), counted(scored, weights)[metric])


def _right_class(task: Task, rows: pd.DataFrame) -> Scored:
    """Whether the likeliest class is the true one, as if it were a finding."""
    labels, said = (
        rows[[f"{part}.{name}" for name in task.finding_names]].to_numpy(np.float64)
        for part in ("label", "positive")
    )
    right = (labels * said).sum(axis=1) > 0
    return Scored(np.ones(len(rows)), right.astype(np.float64), right)
