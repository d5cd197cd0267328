"""Metrics of each subset of modalities, computed from a table of predictions (metrics.json).

The table has a row per study and subset: `study_id, patient_id, group, fold, subset`, and for each
finding `label.NAME` (1, 0, missing), `probability.NAME` and `positive.NAME`; for
prediction sets, `certainty.NAME` and `coverage`.
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, plural, subset_name, subsets
from cxr_mm.evaluation.delong import auc_estimate, auc_limits
from cxr_mm.evaluation.limits import calibration_error, ece_estimate, mean_limits, rate_limits
from cxr_mm.evaluation.metrics import SMALLEST, Scored, measure, proportions
from cxr_mm.evaluation.resampling import Estimate, Limits, Weights, mean_of, multiplicities
from cxr_mm.evaluation.uncertainty import (
    brier_decomposition,
    class_uncertainty,
    finding_uncertainty,
    share,
)


def subset_order(task: Task) -> list[str]:
    """`available`, then every strict subset, singles first."""
    return [AVAILABLE, *(subset_name(s) for s in subsets(task.modalities))]


def subset_rows(table: pd.DataFrame, subset: str) -> pd.DataFrame:
    """Rows of one subset, in order of study, so that two subsets can be set side by side."""
    return table[table["subset"] == subset].sort_values("study_id", ignore_index=True)


def scored_of(rows: pd.DataFrame, finding: str) -> tuple[Scored, NDArray[np.bool_]]:
    """Labelled studies of one finding, and the mask (N,) of labelled rows."""
    return Scored.known(
        *(rows[f"{part}.{finding}"] for part in ("label", "probability", "positive"))
    )


def measure_table(task: Task, table: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Everything that metrics.json holds besides the name and origin of the task."""
    result: dict[str, Any] = {
        "n_studies": int(table["study_id"].nunique()),
        "n_patients": int(table["patient_id"].nunique()),
        "bootstrap": params.bootstrap,
        "subsets": {
            subset: measure_subset(task, rows, params)
            for subset in subset_order(task)
            if len(rows := subset_rows(table, subset))
        },
    }
    if len(task.modalities) > 1:
        result["fusion_gain"] = fusion_gain(task, [table], params)
    return result


def measure_subset(task: Task, rows: pd.DataFrame, params: EvaluateParams) -> dict[str, Any]:
    """Figures of each finding, and over them where there are several."""
    weights = multiplicities(rows["group"], params.bootstrap, params.seed)
    findings = {name: finding_estimates(rows, name, weights) for name in task.finding_names}
    result: dict[str, Any] = {
        "n": len(rows),
        "patients": int(rows["patient_id"].nunique()),
        "findings": {
            name: {
                **_counts(rows, name),
                **to_json(estimates),
                **_chance_calibration(rows, name),
                "brier_decomposition": brier_decomposition(scored_of(rows, name)[0]),
            }
            for name, estimates in findings.items()
        },
    }
    if "coverage" in rows:
        _add_uncertainty(task, rows, weights, result)
    if len(findings) > 1:
        result["macro"] = macro_figures(findings)
        if task.problem == "multiclass":
            result["macro"]["accuracy"] = class_accuracy(task, rows, weights).to_json()
            result["confusion"] = class_confusion(task, rows)
    return result


def macro_figures(findings: dict[str, dict[str, Estimate]]) -> dict[str, Any]:
    """Mean of each metric over the findings that have it; `over` names those with an AUC."""
    estimates = list(findings.values())
    metrics = dict.fromkeys(metric for each in estimates for metric in each)
    means = {m: mean_of([each[m] for each in estimates if m in each]) for m in metrics}
    over = [name for name, each in findings.items() if np.isfinite(each["auc"].value)]
    return {"over": over, **to_json(means)}


def _add_uncertainty(
    task: Task, rows: pd.DataFrame, weights: Weights, result: dict[str, Any]
) -> None:
    """Put `uncertainty` beside the figures of each finding; of multiclass, of all classes."""
    if task.problem == "multiclass":
        result["uncertainty"] = class_uncertainty(task, rows, weights)
        return
    for name, figures in result["findings"].items():
        figures["uncertainty"] = finding_uncertainty(rows, name, weights)


def finding_estimates(rows: pd.DataFrame, finding: str, weights: Weights) -> dict[str, Estimate]:
    """Every metric of one finding, from all rows pooled; and the mean of the folds' AUCs."""
    scored, labelled = scored_of(rows, finding)
    weights = weights[:, labelled]
    patients = rows.loc[labelled, "group"].to_numpy(str)
    values, draws = measure(scored), measure(scored, weights)
    limits = formula_limits(scored, patients)
    result = {
        name: Estimate(float(values[name][0]), draws[name], _reason(scored, name), limits.get(name))
        for name in values
    }
    result["ece"] = ece_estimate(scored, weights, patients)
    if rows["fold"].nunique() > 1:
        folds = rows.loc[labelled, "fold"].to_numpy()
        result["auc_mean_of_folds"] = _mean_of_folds(scored, folds, weights, patients)
    return result


def formula_limits(scored: Scored, patients: ArrayLike) -> dict[str, Limits | None]:
    """Limits of those metrics that have a formula for them, by name.

    Args:
        scored: N studies.
        patients: (N,) key by which studies belong together.
    """
    rates = {name: rate_limits(*of, patients) for name, of in proportions(scored).items()}
    squares = (scored.probabilities - scored.labels) ** 2
    return {
        **rates,
        "auc": auc_limits(scored.labels, scored.probabilities, patients),
        "brier": mean_limits(squares, patients),
    }


def _mean_of_folds(
    scored: Scored, folds: NDArray[np.int64], weights: Weights, patients: NDArray[np.str_]
) -> Estimate:
    parts = []
    for fold in np.unique(folds):
        here = folds == fold
        part = scored.where(here)
        reason = _reason(part, "auc")
        parts.append(auc_estimate(part, weights[:, here], patients[here], reason))
    return mean_of(parts)


def fusion_gain(task: Task, tables: list[pd.DataFrame], params: EvaluateParams) -> dict[str, Any]:
    """AUC of all modalities together against each alone, on the same studies.

    Studies are those that have every modality. The best single is the one of highest AUC on these
    very studies, which flatters it, so the gain errs on the small side. With several tables, of as
    many divisions into folds, every AUC is the mean over them.
    """
    names = [subset_name(s) for s in subsets(task.modalities)]
    full, singles = names[-1], names[: len(task.modalities)]
    rows = {
        name: [subset_rows(table, name).set_index("study_id") for table in tables]
        for name in (full, *singles)
    }
    shared = sorted(set.intersection(*(set(r[0].index) for r in rows.values())))
    if not shared:
        return {"studies": 0, "reason": "no study has every modality"}
    same = {name: [r.loc[shared] for r in divided] for name, divided in rows.items()}
    weights = multiplicities(same[full][0]["group"], params.bootstrap, params.seed)
    aucs = {
        finding: {
            name: mean_of([_auc(r, finding, weights) for r in divided])
            for name, divided in same.items()
        }
        for finding in task.finding_names
    }
    result: dict[str, Any] = {
        "studies": len(shared),
        "fused": full,
        "findings": {finding: _gain(full, singles, found) for finding, found in aucs.items()},
    }
    if len(aucs) > 1:
        macro = {name: mean_of([a[name] for a in aucs.values()]) for name in (full, *singles)}
        result["macro"] = _gain(full, singles, macro)
    return result


def _auc(rows: pd.DataFrame, finding: str, weights: Weights) -> Estimate:
    scored, labelled = scored_of(rows, finding)
    patients = rows.loc[labelled, "group"].to_numpy(str)
    return auc_estimate(scored, weights[:, labelled], patients, _reason(scored, "auc"))


def _gain(full: str, singles: list[str], aucs: dict[str, Estimate]) -> dict[str, Any]:
    best = max(singles, key=lambda name: np.nan_to_num(aucs[name].value, nan=-1.0))
    return {
        "best_single": best,
        "fused_auc": aucs[full].to_json(),
        "single_auc": aucs[best].to_json(),
        "difference": (aucs[full] - aucs[best]).to_json(),
        "differences": {name: (aucs[full] - aucs[name]).to_json() for name in singles},
    }


def class_confusion(task: Task, rows: pd.DataFrame) -> dict[str, dict[str, int]]:
    """True class → likeliest class → number of studies."""
    truth, predicted, _ = likeliest_classes(task, rows)
    names = task.finding_names
    table = np.zeros((len(names), len(names)), dtype=np.int64)
    np.add.at(table, (truth, predicted), 1)
    return {a: {b: int(table[i, j]) for j, b in enumerate(names)} for i, a in enumerate(names)}


def class_accuracy(task: Task, rows: pd.DataFrame, weights: Weights) -> Estimate:
    """Share of studies whose likeliest class is the true one."""
    truth, predicted, labelled = likeliest_classes(task, rows)
    groups = rows.loc[labelled, "group"].to_numpy(str)
    everyone = np.ones(len(truth), dtype=bool)
    return share(truth == predicted, everyone, "no label", weights[:, labelled], groups)


def likeliest_classes(
    task: Task, rows: pd.DataFrame
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.bool_]]:
    """Indices of the true and the likeliest class of each labelled row, and the mask of these."""
    labels = rows[[f"label.{name}" for name in task.finding_names]].to_numpy(np.float64)
    chances = rows[[f"probability.{name}" for name in task.finding_names]].to_numpy(np.float64)
    labelled = np.nansum(labels, axis=1) == 1
    return np.nanargmax(labels[labelled], axis=1), chances[labelled].argmax(axis=1), labelled


def _counts(rows: pd.DataFrame, finding: str) -> dict[str, Any]:
    scored, _ = scored_of(rows, finding)
    yes, called = scored.labels > 0, scored.positives
    result: dict[str, Any] = {
        "n": len(scored),
        "positives": scored.n_positive,
        "confusion": {
            "tp": int((yes & called).sum()),
            "fp": int((~yes & called).sum()),
            "fn": int((yes & ~called).sum()),
            "tn": int((~yes & ~called).sum()),
        },
    }
    fewer = min(scored.n_positive, len(scored) - scored.n_positive)
    if fewer < SMALLEST:
        result["caution"] = f"only {plural(fewer, 'study')} in the smaller class"
    return result


def _chance_calibration(rows: pd.DataFrame, finding: str) -> dict[str, Any]:
    """`ece_by_chance`: the plug-in, and the band of a perfectly calibrated model's."""
    scored, labelled = scored_of(rows, finding)
    found = calibration_error(scored, rows.loc[labelled, "group"])
    return {"ece_by_chance": found.band_to_json()} if found else {}


def _reason(scored: Scored, metric: str) -> str:
    """Why a metric of these studies is not defined, should it not be."""
    if not len(scored):
        return "no study has a label"
    if scored.n_positive == 0:
        return "no study has the finding"
    if scored.n_positive == len(scored):
        return "every study has the finding"
    reasons = {
        "ppv": "no study is called positive",
        "npv": "no study is called negative",
        "calibration_slope": "the two classes are separated",
        "calibration_intercept": "the two classes are separated",
    }
    return reasons.get(metric, "")


def to_json(estimates: dict[str, Estimate]) -> dict[str, Any]:
    """Estimates by name as reports give them."""
    return {name: estimate.to_json() for name, estimate in estimates.items()}


def measure_divisions(
    task: Task, first: pd.DataFrame, further: pd.DataFrame, params: EvaluateParams
) -> dict[str, Any]:
    """Figures over all divisions; nothing where there is only one.

    Args:
        task: names findings and modalities.
        first: held-out predictions of the first division, as of `measure_table`.
        further: those of the other divisions, by the column `division`.
        params: resamples and seed.

    Returns:
        `count`, `subsets` (each `n` and `findings` or `macro`) and `fusion_gain`.
    """
    if not len(further):
        return {}
    tables = [first, *(table for _, table in further.groupby("division"))]
    result: dict[str, Any] = {
        "count": len(tables),
        "subsets": {
            subset: _mean_over_divisions(task, rows, params)
            for subset in subset_order(task)
            if len((rows := [subset_rows(table, subset) for table in tables])[0])
        },
    }
    if len(task.modalities) > 1:
        result["fusion_gain"] = fusion_gain(task, tables, params)
    return result


def _mean_over_divisions(
    task: Task, rows: list[pd.DataFrame], params: EvaluateParams
) -> dict[str, Any]:
    """Mean over divisions of each figure of one subset; `rows` has a table per division."""
    weights = multiplicities(rows[0]["group"], params.bootstrap, params.seed)
    findings: dict[str, dict[str, Estimate]] = {}
    for name in task.finding_names:
        found = [finding_estimates(each, name, weights) for each in rows]
        findings[name] = {metric: mean_of([one[metric] for one in found]) for metric in found[0]}
    result: dict[str, Any] = {
        "n": len(rows[0]),
        "findings": {name: to_json(estimates) for name, estimates in findings.items()},
    }
    if len(findings) > 1:
        result["macro"] = macro_figures(findings)
    return result
