"""Divisions: figures as the mean over several divisions of the same studies into folds.

One division is one draw, and with few patients its luck is a good part of any figure. Intervals are
over patients: each resample is applied to all divisions alike (Bouckaert and Frank, PAKDD 2004, on
why repeats are no new studies).
"""

from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.intervals import Estimate, mean_of, multiplicities
from cxr_mm.evaluation.subsets import (
    finding_estimates,
    fusion_gain,
    overall,
    subset_order,
    subset_rows,
    to_json,
)
from cxr_mm.params import EvaluateParams

Division = dict[str, Estimate]


def measure_divisions(
    task: Task, first: pd.DataFrame, further: pd.DataFrame, params: EvaluateParams
) -> dict[str, Any]:
    """Figures over all divisions; nothing where there is only one.

    Args:
        task: names findings and modalities.
        first: held-out predictions of the first division, as of `measure_table`.
        further: those of the others, told apart by `division`.
        params: resamples and bins.

    Returns:
        `count`, `subsets` (each `n` and `findings` or `macro`) and `fusion_gain`.
    """
    if not len(further):
        return {}
    tables = [first, *(table for _, table in further.groupby("division"))]
    result: dict[str, Any] = {
        "count": len(tables),
        "subsets": {
            subset: _subset(task, rows, params)
            for subset in subset_order(task)
            if len((rows := [subset_rows(table, subset) for table in tables])[0])
        },
    }
    if len(task.modalities) > 1:
        result["fusion_gain"] = fusion_gain(task, tables, params)
    return result


def _subset(task: Task, rows: list[pd.DataFrame], params: EvaluateParams) -> dict[str, Any]:
    weights = multiplicities(rows[0]["group"], params.bootstrap, params.seed)
    findings: dict[str, Division] = {}
    for name in task.finding_names:
        found = [finding_estimates(each, name, weights, params.ece_bins) for each in rows]
        findings[name] = {metric: mean_of([one[metric] for one in found]) for metric in found[0]}
    result: dict[str, Any] = {
        "n": len(rows[0]),
        "findings": {name: to_json(estimates) for name, estimates in findings.items()},
    }
    if len(findings) > 1:
        over = [name for name, e in findings.items() if np.isfinite(e["auc"].value)]
        result["macro"] = {"over": over, **to_json(overall(list(findings.values())))}
    return result
