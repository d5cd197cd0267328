"""Comparisons: the AUCs of two models on the very same studies.

Intervals and p values are DeLong's with patients as clusters, so that they agree.
"""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, Modality, subset_name, subsets
from cxr_mm.evaluation.delong import AucTest, auc_estimate, auc_test
from cxr_mm.evaluation.metrics import auc
from cxr_mm.evaluation.resampling import Estimate, holm, multiplicities, rounded
from cxr_mm.evaluation.subsets import scored_of, subset_rows

METHOD = "DeLong with patients as clusters, on the logit scale for the interval of one AUC"
NEEDED = ("study_id", "group")


@dataclass(frozen=True)
class Comparison:
    """Two AUCs of one finding on the studies that both tables have."""

    n: int
    patients: int
    positives: int
    first: Estimate
    second: Estimate
    test: AucTest | None

    @property
    def difference(self) -> Estimate:
        """First minus second, with the limits of the test where there is one."""
        limits = self.test.limits if self.test else None
        return replace(self.first - self.second, limits=limits)

    def to_json(self) -> dict[str, Any]:
        p = self.test.p if self.test else np.nan
        message: dict[str, Any] = {
            "n": self.n,
            "patients": self.patients,
            "positives": self.positives,
            "auc": self.first.to_json(),
            "other_auc": self.second.to_json(),
            "difference": self.difference.to_json(),
            "p": rounded(p) if np.isfinite(p) else None,
        }
        if self.test and self.test.error == 0:
            message["note"] = "both order the studies alike"
        return message


def compare(
    first: pd.DataFrame, second: pd.DataFrame, finding: str, params: EvaluateParams
) -> Comparison:
    """Compare two models' predictions of one finding on the studies that both have.

    Args:
        first, second: a row per study: `study_id`, `group` and `label`, `probability`, `positive`
            of the finding.
        finding: its name.
        params: resamples and seed.

    Raises:
        InputError: a column is missing, a study occurs twice, or the tables' labels differ.
    """
    one, other = (_by_study(table, finding) for table in (first, second))
    shared = sorted(set(one.index) & set(other.index))
    one, other = one.loc[shared], other.loc[shared]
    labels, others = (t[f"label.{finding}"].to_numpy(np.float64) for t in (one, other))
    if not np.array_equal(labels, others, equal_nan=True):
        raise InputError(
            "the two tables give some study different labels",
            field=f"label.{finding}",
            remedy="Compare predictions of the same studies and the same task",
        )
    (a, labelled), (b, _) = scored_of(one, finding), scored_of(other, finding)
    groups = one.loc[labelled, "group"]
    weights = multiplicities(groups, params.bootstrap, params.seed)
    return Comparison(
        n=len(a),
        patients=groups.nunique(),
        positives=a.n_positive,
        first=auc_estimate(a, weights, groups, "one class only"),
        second=auc_estimate(b, weights, groups, "one class only"),
        test=auc_test(a.labels, [a.probabilities, b.probabilities], groups),
    )


def _by_study(table: pd.DataFrame, finding: str) -> pd.DataFrame:
    needed = [*NEEDED, *(f"{part}.{finding}" for part in ("label", "probability", "positive"))]
    if missing := [c for c in needed if c not in table.columns]:
        raise InputError(
            f"no column {', '.join(missing)}", field=finding, remedy="Give held-out predictions"
        )
    if table["study_id"].duplicated().any():
        raise InputError(
            "a study occurs twice", field="study_id", remedy="Take the rows of one subset"
        )
    return table.set_index("study_id")


def compare_subsets(task: Task, table: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Everything that comparisons.json holds: each subset against its best single and `available`.

    Of the singles, the one of highest AUC on the very studies compared counts as best, which
    flatters it. P values are corrected over all comparisons of the table (Holm).
    """
    rows = []
    for finding in task.finding_names:
        for subset in subsets(task.modalities):
            if len(subset) > 1:
                rows += _against_best_single(table, subset, finding, params)
            # With every modality the predictions are those of `available`.
            if subset != task.modalities:
                rows += _against(table, subset_name(subset), AVAILABLE, finding, params)
    tested = [row for row in rows if row["p"] is not None]
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = rounded(p)
    return {
        "task": task.name,
        "synthetic": task.synthetic,
        "method": METHOD,
        "comparisons": rows,
    }


def _against_best_single(
    table: pd.DataFrame, subset: tuple[Modality, ...], finding: str, params: EvaluateParams
) -> list[dict[str, Any]]:
    """The subset minus its best single; on studies that have the subset, which has all singles."""
    ids = set(subset_rows(table, subset_name(subset))["study_id"])
    best, highest = "", -1.0
    for modality in subset:
        rows = subset_rows(table, modality)
        scored, _ = scored_of(rows[rows["study_id"].isin(ids)], finding)
        value = float(np.nan_to_num(auc(scored)[0], nan=-1.0))
        if value > highest:
            best, highest = modality, value
    return _against(table, subset_name(subset), best, finding, params) if best else []


def _against(
    table: pd.DataFrame, subset: str, other: str, finding: str, params: EvaluateParams
) -> list[dict[str, Any]]:
    """One comparison, or none where the subset has no study."""
    first, second = subset_rows(table, subset), subset_rows(table, other)
    if not len(first):
        return []
    found = compare(first, second, finding, params).to_json()
    return [{"finding": finding, "subset": subset, "against": other, **found}]
