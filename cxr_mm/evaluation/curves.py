"""Curves as tables: ROC, precision-recall, reliability and confusion, for DVC's plots and drawing.

Reliability bars are Wilson limits (Wilson, J Am Stat Assoc 1927; 22:209) of the share of positives
in a bin; they take studies as independent.
"""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.metrics import Floats, Scored, equal_mass_bins
from cxr_mm.evaluation.subsets import AVAILABLE, scored_of, subset_order, subset_rows

MOST_POINTS = 400
"""Points kept of a curve; more cannot be seen and make the tables heavy."""
Z = 1.959964
"""Standard normal quantile of two-sided 95 % limits."""


def curve_tables(task: Task, table: pd.DataFrame, bins: int) -> dict[str, pd.DataFrame]:
    """Name of the plot → its table.

    `roc`: subset, finding, fpr, tpr, threshold. `precision_recall`: subset, finding, recall,
    precision, threshold. `reliability`: subset, finding, predicted, observed, low, high, studies.
    `confusion`: one row per labelled study of `available`, actual and predicted in words.
    """
    found: dict[str, list[pd.DataFrame]] = {"roc": [], "precision_recall": [], "reliability": []}
    for subset in subset_order(task):
        rows = subset_rows(table, subset)
        for name in task.finding_names:
            scored, _ = scored_of(rows, name)
            if not 0 < scored.n_positive < len(scored):
                continue
            for kind, curve in (
                ("roc", roc(scored)),
                ("precision_recall", precision_recall(scored)),
                ("reliability", reliability(scored, bins)),
            ):
                curve.insert(0, "finding", name)
                curve.insert(0, "subset", subset)
                found[kind].append(curve)
    tables = {kind: pd.concat(parts) for kind, parts in found.items() if parts}
    return {**tables, "confusion": confusion(task, subset_rows(table, AVAILABLE))}


def roc(scored: Scored) -> pd.DataFrame:
    """False and true positive rate at each threshold, from (0, 0) to (1, 1)."""
    found, called, thresholds = _above(scored)
    curve = pd.DataFrame(
        {
            "fpr": (called - found) / (len(scored) - scored.n_positive),
            "tpr": found / scored.n_positive,
            "threshold": thresholds,
        }
    )
    return _thinned(curve, curve["fpr"].to_numpy(), curve["tpr"].to_numpy())


def precision_recall(scored: Scored) -> pd.DataFrame:
    """Recall and precision at each threshold; precision holds back to the recall before it."""
    found, called, thresholds = _above(scored)
    precision = found / np.maximum(called, 1)
    precision[0] = precision[1]
    recall = found / scored.n_positive
    curve = pd.DataFrame({"recall": recall, "precision": precision, "threshold": thresholds})
    return _thinned(curve, recall, precision)


def reliability(scored: Scored, bins: int) -> pd.DataFrame:
    """Mean probability and share of positives in each bin of equal mass."""
    which = equal_mass_bins(scored.probabilities, bins)
    filled = np.unique(which)
    n = np.array([(which == b).sum() for b in filled], dtype=np.float64)
    share = np.array([scored.labels[which == b].mean() for b in filled])
    middle = (share + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z / (1 + Z**2 / n) * np.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2))
    return pd.DataFrame(
        {
            "predicted": [scored.probabilities[which == b].mean() for b in filled],
            "observed": share,
            "low": np.clip(middle - half, 0, 1),
            "high": np.clip(middle + half, 0, 1),
            "studies": n.astype(np.int64),
        }
    )


def confusion(task: Task, rows: pd.DataFrame) -> pd.DataFrame:
    """One row per labelled study (and finding, in a multilabel task): actual and predicted."""
    titles = [f.title for f in task.findings]
    if task.problem == "multiclass":
        labels = rows[[f"label.{name}" for name in task.finding_names]].to_numpy(np.float64)
        chances = rows[[f"probability.{name}" for name in task.finding_names]].to_numpy()
        kept = np.nansum(labels, axis=1) == 1
        names = np.array(titles, dtype=object)
        actual = names[np.nan_to_num(labels[kept]).argmax(axis=1)]
        return pd.DataFrame({"actual": actual, "predicted": names[chances[kept].argmax(axis=1)]})
    parts = []
    for finding in task.findings:
        scored, _ = scored_of(rows, finding.name)
        words = np.array([f"{finding.title}: no", f"{finding.title}: yes"], dtype=object)
        actual, predicted = scored.labels.astype(int), scored.positives.astype(int)
        parts.append(pd.DataFrame({"actual": words[actual], "predicted": words[predicted]}))
    return pd.concat(parts, ignore_index=True)


def _above(scored: Scored) -> tuple[Floats, Floats, Floats]:
    """Positives and studies at or above each distinct threshold, from above the highest down."""
    order = np.argsort(-scored.probabilities, kind="stable")
    scores = scored.probabilities[order]
    last = np.flatnonzero(np.r_[scores[1:] != scores[:-1], True])
    found = np.r_[0.0, np.cumsum(scored.labels[order])[last]]
    return found, np.r_[0.0, last + 1.0], np.r_[np.nan, scores[last]]


def _thinned(curve: pd.DataFrame, x: Floats, y: Floats) -> pd.DataFrame:
    """Keep the corners of a curve, and of these at most MOST_POINTS."""
    corner = np.ones(len(x), dtype=bool)
    before, after = np.diff(x)[:-1] * np.diff(y)[1:], np.diff(x)[1:] * np.diff(y)[:-1]
    corner[1:-1] = ~np.isclose(before, after, rtol=0, atol=1e-12)
    kept: NDArray[np.intp] = np.flatnonzero(corner)
    if len(kept) > MOST_POINTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, MOST_POINTS).astype(int))]
    return curve.iloc[kept].round(6)
