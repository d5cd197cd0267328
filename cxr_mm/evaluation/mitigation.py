"""Mitigation of subgroup gaps: what thresholds, recalibration or reweighting by group would bring.

Thresholds and recalibration are fitted on the held-out predictions of other patients (five folds).
Reweighting happens in `fuse`, which leaves its predictions without it beside those with it. Nothing
here changes a bundle.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit, logit

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.data.split import group_folds
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.metrics import CLIP, Floats, Scored, counted, expected_calibration_error
from cxr_mm.evaluation.resampling import Estimate, Weights, multiplicities
from cxr_mm.evaluation.subgroups import Division, divide
from cxr_mm.evaluation.subsets import scored_of, subset_rows
from cxr_mm.evaluation.traits import SMALLEST_CLASS, SMALLEST_GROUP, Traits

FOLDS = 5
"""Folds by patient; each study's threshold or recalibration is fitted on the others."""
PLAIN = "plain."
"""Prefix of the columns that `fuse` leaves of predictions without reweighting."""
GAPS = ("sensitivity", "specificity", "ece")
COSTS = ("auc", "accuracy", "net_benefit")
Names = NDArray[np.object_]


@dataclass(frozen=True)
class Answered:
    """Labelled studies of one finding, and the operating point of each.

    Args:
        scored: N studies.
        thresholds: (N,) probability from which a study is called positive.
        patients: (N,) key by which studies belong together.
    """

    scored: Scored
    thresholds: Floats
    patients: Names

    def where(self, rows: NDArray[np.bool_]) -> "Answered":
        """Select the studies of a mask (N,)."""
        return Answered(self.scored.where(rows), self.thresholds[rows], self.patients[rows])


Fix = Callable[[Answered, Answered, Answered], Scored]
"""Studies of all groups, of one to learn from, and others of it to answer → these answered."""


def measure_mitigation(
    task: Task, table: pd.DataFrame, traits: Traits, params: EvaluateParams
) -> dict[str, Any]:
    """What each method of `evaluate.mitigate`, and `fuse.reweight`, brings for each characteristic.

    Args:
        task: the question, not multiclass.
        table: held-out predictions.
        traits: of these studies.
        params: methods, resamples and seed.

    Returns:
        Finding → characteristic → method → `gaps` (`sensitivity`, `specificity`, `ece`: largest
        less smallest over the groups) and `overall` (`auc`, `accuracy`, `net_benefit`), each with
        `before`, `after` and `change`. Empty where nothing is asked for.
    """
    rows = subset_rows(table, AVAILABLE)
    reweighted = f"{PLAIN}probability.{task.finding_names[0]}" in rows
    methods = (*params.mitigate, *(["reweight"] if reweighted else []))
    if not methods or task.problem == "multiclass":
        return {}
    divisions = [each for each in divide(traits, rows) if not each.crossed]
    found: dict[str, Any] = {name: {} for name in task.finding_names}
    for finding, division in product(task.finding_names, divisions):
        measured = _by_method(rows, finding, division, methods, params)
        if measured:
            found[finding][division.by] = measured
    return found


def _by_method(
    rows: pd.DataFrame,
    finding: str,
    division: Division,
    methods: tuple[str, ...],
    params: EvaluateParams,
) -> dict[str, Any]:
    """Method → figures; empty where fewer than two groups are large enough."""
    answered, labelled = _answered(rows, finding)
    names = division.names[labelled]
    groups = [g for g in division.groups if _large_enough(answered, names == g)]
    if len(groups) < 2:
        return {}
    weights = multiplicities(answered.patients, params.bootstrap, params.seed)
    result = {}
    for method in methods:
        before, after = answered, answered
        if method == "reweight":
            before = _answered(rows, finding, PLAIN)[0]
        else:
            after = cross_fitted(answered, names, groups, FIXES[method], params.seed)
        result[method] = compare_gaps(before, after, names, groups, weights)
    return result


def _answered(
    rows: pd.DataFrame, finding: str, prefix: str = ""
) -> tuple[Answered, NDArray[np.bool_]]:
    """Labelled studies, and the mask (N,) of them."""
    if prefix:
        columns = {f"{p}.{finding}": rows[f"{prefix}{p}.{finding}"] for p in VARIED}
        rows = rows.assign(**columns)
    scored, labelled = scored_of(rows, finding)
    known = rows[labelled]
    thresholds = known[f"threshold.{finding}"].to_numpy(np.float64)
    return Answered(scored, thresholds, known["group"].to_numpy(object)), labelled


VARIED = ("probability", "positive", "threshold")
"""Columns of a finding that reweighting changes."""


def _large_enough(answered: Answered, here: NDArray[np.bool_]) -> bool:
    yes = answered.scored.labels > 0
    fewest = min(len(set(answered.patients[here & side])) for side in (yes, ~yes))
    return bool(here.sum() >= SMALLEST_GROUP and fewest >= SMALLEST_CLASS)


def cross_fitted(
    answered: Answered, names: Names, groups: list[str], fix: Fix, seed: int
) -> Answered:
    """Answer the studies of each group by what was fitted to its other patients.

    Args:
        answered: N studies.
        names: (N,) group of each; a study of no group in `groups` stays as it is.
        groups: those that are large enough.
        fix: how.
        seed: of the folds.
    """
    scored = answered.scored
    probabilities, positives = scored.probabilities.copy(), scored.positives.copy()
    labels = scored.labels[:, None].astype(np.float32)
    folds = group_folds(labels, answered.patients, FOLDS, seed, "evaluate.mitigate")
    for group, fold in product(groups, range(FOLDS)):
        here, inside = names == group, folds == fold
        learn, apply = answered.where(here & ~inside), answered.where(here & inside)
        if len(apply.scored) and 0 < learn.scored.n_positive < len(learn.scored):
            new = fix(answered.where(~inside), learn, apply)
            probabilities[here & inside] = new.probabilities
            positives[here & inside] = new.positives
    return replace(answered, scored=Scored(scored.labels, probabilities, positives))


def group_threshold(everyone: Answered, learn: Answered, apply: Answered) -> Scored:
    """A threshold of the group's own, at which it has the sensitivity of all groups together.

    This is equal opportunity (Hardt, Price and Srebro, NeurIPS 2016), of one threshold for each
    group; fairlearn's ThresholdOptimizer draws between two by chance, so that the same patient
    could be answered differently.
    """
    yes = everyone.scored.labels > 0
    sensitivity = float(everyone.scored.positives[yes].mean())
    own = learn.scored.probabilities[learn.scored.labels > 0]
    threshold = float(np.quantile(own, 1 - sensitivity))
    return replace(apply.scored, positives=apply.scored.probabilities >= threshold)


def group_recalibration(everyone: Answered, learn: Answered, apply: Answered) -> Scored:  # noqa: ARG001
    """New intercept, or intercept and slope, of the group's own where the old are shown wrong."""
    import torch  # slow to import, and no other figure needs it

    from cxr_mm.models.recalibration import choose_updates

    scored = learn.scored
    independent = len(set(learn.patients)) / len(scored)
    columns = torch.from_numpy(_logits(scored)[:, None]), torch.from_numpy(scored.labels[:, None])
    (update,) = choose_updates(*columns, "binary", independent)
    probabilities = expit(update.intercept + update.slope * _logits(apply.scored))
    return Scored(apply.scored.labels, probabilities, probabilities >= apply.thresholds)


def _logits(scored: Scored) -> Floats:
    logits: Floats = logit(scored.probabilities.clip(CLIP, 1 - CLIP))
    return logits


FIXES: dict[str, Fix] = {"thresholds": group_threshold, "recalibrate": group_recalibration}


def compare_gaps(
    before: Answered, after: Answered, names: Names, groups: list[str], weights: Weights
) -> dict[str, Any]:
    """Gaps between groups and figures of all studies, before and after; intervals over patients.

    Args:
        before, after: the same N studies.
        names: (N,) group of each.
        groups: those that are compared.
        weights: (B, N) how often each study counts in each resample.
    """
    sides = [
        (_gaps(each, names, groups, weights), _overall(each, weights)) for each in (before, after)
    ]
    (gaps, costs), (new_gaps, new_costs) = sides
    return {
        "groups": groups,
        "gaps": {name: _change(gaps[name], new_gaps[name]) for name in GAPS},
        "overall": {name: _change(costs[name], new_costs[name]) for name in COSTS},
    }


def _change(before: Estimate, after: Estimate) -> dict[str, Any]:
    found = {"before": before, "after": after, "change": after - before}
    return {name: estimate.to_json() for name, estimate in found.items()}


def _gaps(
    answered: Answered, names: Names, groups: list[str], weights: Weights
) -> dict[str, Estimate]:
    """Largest less smallest figure over the groups; a maximum is above 0 by chance too."""
    values, draws = {}, {}
    for group in groups:
        here = names == group
        part = answered.scored.where(here)
        values[group] = _rates(part, None)
        draws[group] = _rates(part, weights[:, here])
    return {
        name: Estimate(
            float(np.ptp([values[g][name] for g in groups])),
            np.ptp(np.stack([draws[g][name] for g in groups]), axis=0),
        )
        for name in GAPS
    }


def _rates(scored: Scored, weights: Weights | None) -> dict[str, Floats]:
    found = counted(scored, weights)
    return {**found, "ece": expected_calibration_error(scored, weights)}


def _overall(answered: Answered, weights: Weights) -> dict[str, Estimate]:
    """AUC, accuracy, and net benefit (Vickers and Elkin, Med Decis Making 2006; 26:565).

    Net benefit weighs a false positive by the odds of the study's operating point, whatever
    threshold the method gave it, so that before and after are paid in the same coin.
    """
    scored = answered.scored
    called, yes = scored.positives, scored.labels > 0
    odds = answered.thresholds / (1 - answered.thresholds)
    benefit = (called & yes) - (called & ~yes) * odds
    return {
        "auc": auc_estimate(scored, weights, answered.patients, "one answer only"),
        "accuracy": _mean((called == yes).astype(np.float64), weights),
        "net_benefit": _mean(benefit, weights),
    }


def _mean(values: Floats, weights: Weights) -> Estimate:
    counts = weights.astype(np.float64)
    with np.errstate(invalid="ignore"):
        return Estimate(float(values.mean()), counts @ values / counts.sum(axis=1))
