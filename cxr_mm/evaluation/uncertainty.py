"""Uncertainty: coverage of conformal prediction sets, and the terms of the Brier score.

Coverage is the share of studies whose true answer is in the conformal prediction set
(Angelopoulos and Bates 2021), to be compared with the target level. The Brier score is
decomposed as by Murphy (J Appl Meteorol 1973; 12:595), with the two terms within bins that make the
sum exact (Stephenson, Coelho and Jolliffe, Weather Forecast 2008; 23:752).

The table has, beside what `subsets` reads, `certainty.NAME` (present, absent, uncertain) and
`coverage`, the target level.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.task import Task
from cxr_mm.evaluation.limits import rate_limits
from cxr_mm.evaluation.metrics import ECE_BINS, Floats, Scored, equal_mass_bins
from cxr_mm.evaluation.resampling import Estimate, Weights, rounded

Flags = NDArray[np.bool_]


def brier_decomposition(scored: Scored, bins: int = ECE_BINS) -> dict[str, float | None]:
    """Brier score = reliability - resolution + uncertainty + within_bin.

    `reliability`: mean squared distance of a bin's mean probability from its share of positives,
    0 at best. `resolution`: that of the shares from the share of all, the more the better.
    `uncertainty`: the Brier score of always answering the share of all. `within_bin`: what bins
    hide, variance less twice the covariance with the label; small where bins are narrow.

    Args:
        scored: N studies.
        bins: of equal mass, those of the calibration error.

    Returns:
        The four terms, None where there is no study.
    """
    names = ("reliability", "resolution", "uncertainty", "within_bin")
    if not len(scored):
        return dict.fromkeys(names)
    p, y = scored.probabilities, scored.labels
    which = np.unique(equal_mass_bins(p, bins), return_inverse=True)[1]
    size = np.bincount(which)
    predicted = (np.bincount(which, weights=p) / size)[which]
    observed = (np.bincount(which, weights=y) / size)[which]
    base = y.mean()
    terms = (
        np.mean((predicted - observed) ** 2),
        np.mean((observed - base) ** 2),
        base * (1 - base),
        np.mean((p - predicted) ** 2) - 2 * np.mean((p - predicted) * (y - observed)),
    )
    return {name: rounded(term) for name, term in zip(names, terms, strict=True)}


def finding_uncertainty(rows: pd.DataFrame, finding: str, weights: Weights) -> dict[str, Any]:
    """Figures of one binary finding on its labelled studies.

    Args:
        rows: N studies of one subset.
        finding: of a binary or multilabel task.
        weights: (B, N) how often each study counts in each resample.

    Returns:
        `coverage`, also of the studies with (`coverage_present`) and without the finding
        (`coverage_absent`); `uncertain`, share of studies; `accuracy_when_certain`,
        `sensitivity_when_certain`, `specificity_when_certain`; `target`.
    """
    labelled = rows[f"label.{finding}"].notna().to_numpy()
    part, weights = rows[labelled], weights[:, labelled]
    yes = part[f"label.{finding}"].to_numpy() > 0
    answers = part[f"certainty.{finding}"].to_numpy(str)
    covered = np.where(yes, answers != "absent", answers != "present")
    certain = answers != "uncertain"
    everyone = np.ones_like(yes)
    among = {
        "coverage": (covered, everyone, "no study has a label"),
        "coverage_present": (covered, yes, "no study has the finding"),
        "coverage_absent": (covered, ~yes, "every study has the finding"),
        "uncertain": (~certain, everyone, "no study has a label"),
        "accuracy_when_certain": (covered, certain, "no study is certain"),
        "sensitivity_when_certain": (covered, certain & yes, "none with the finding is certain"),
        "specificity_when_certain": (covered, certain & ~yes, "none without it is certain"),
    }
    groups = part["group"].to_numpy(str)
    figures = {name: share(*what, weights, groups).to_json() for name, what in among.items()}
    return {**figures, "target": _target(rows)}


def class_uncertainty(task: Task, rows: pd.DataFrame, weights: Weights) -> dict[str, Any]:
    """Figures of the sets of classes on the labelled studies of a multiclass task.

    Args:
        task: for its classes.
        rows: N studies of one subset.
        weights: (B, N) how often each study counts in each resample.

    Returns:
        `coverage`; `coverage_by_class`, class → coverage; `uncertain`, share of studies with more
        than one class left; `mean_set_size`; `accuracy_when_certain`; `target`.
    """
    names = task.finding_names
    labels = rows[[f"label.{name}" for name in names]].to_numpy(np.float64)
    labelled = np.nansum(labels, axis=1) == 1
    truth, weights = np.nanargmax(labels[labelled], axis=1), weights[:, labelled]
    answers = rows.loc[labelled, [f"certainty.{name}" for name in names]].to_numpy(str)
    possible = answers != "absent"
    covered = possible[np.arange(len(truth)), truth]
    size = possible.sum(axis=1)
    everyone = np.ones_like(covered)
    groups = rows.loc[labelled, "group"].to_numpy(str)

    def figure(counted: Flags, among: Flags, reason: str) -> dict[str, Any]:
        return share(counted, among, reason, weights, groups).to_json()

    return {
        "coverage": figure(covered, everyone, "no study has a label"),
        "coverage_by_class": {
            name: figure(covered, truth == c, "no study is of this class")
            for c, name in enumerate(names)
        },
        "uncertain": figure(size > 1, everyone, "no study has a label"),
        "mean_set_size": _mean(size.astype(np.float64), weights).to_json(),
        "accuracy_when_certain": figure(covered, size == 1, "no study is certain"),
        "target": _target(rows),
    }


def share(
    counted: Flags, among: Flags, reason: str, weights: Weights, groups: NDArray[np.str_]
) -> Estimate:
    """Estimate the share of some studies that has a property.

    Args:
        counted: (N,) studies with the property.
        among: (N,) studies of which the share is.
        reason: why it is not defined where there is no such study.
        weights: (B, N) how often each study counts in each resample.
        groups: (N,) patient group of each study.
    """
    part = _mean(counted[among].astype(np.float64), weights[:, among])
    return Estimate(part.value, part.draws, reason, rate_limits(counted, among, groups))


def _mean(values: Floats, weights: Weights) -> Estimate:
    weight = weights.astype(np.float64)
    with np.errstate(invalid="ignore"):
        draws = weight @ values / weight.sum(axis=1)
    value = float(values.mean()) if len(values) else np.nan
    return Estimate(value, np.asarray(draws), "no study has a label")


def _target(rows: pd.DataFrame) -> float | None:
    """The target level, the same for all studies."""
    return rounded(rows["coverage"].iloc[0]) if len(rows) else None
