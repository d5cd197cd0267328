"""Label shift: whether a change of prevalence alone explains what moved.

If only the share of each pattern of labels changes, studies of each pattern look as before, so the
mean predicted probabilities and their products tell the new shares (black box shift estimation,
Lipton et al., ICML 2018), and the reference, weighed to them by its labels, must look like the
window.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls

from cxr_mm.contracts.task import Task

Floats = NDArray[np.float64]
LEAST = 0.005
"""Share that no common pattern is estimated below."""
FEWEST_OF_PATTERN = 5


@dataclass(frozen=True)
class LabelShift:
    """Prevalences that would explain a window.

    Args:
        before, after: finding → prevalence of the reference, estimate for the window.
        weights: (N,) of the reference's rows; they add up to the number of rows that, drawn
            evenly, would vary as these weighed ones do.
    """

    before: dict[str, float]
    after: dict[str, float]
    weights: Floats

    @property
    def text(self) -> str:
        """From where to where."""
        moved = [
            f"{name} {100 * self.before[name]:.0f} % → about {100 * self.after[name]:.0f} %"
            for name in sorted(self.before, key=lambda n: -abs(self.after[n] - self.before[n]))
        ]
        return "Prevalence: " + ", ".join(moved) + " would explain what moved"


def label_shift(current: pd.DataFrame, reference: pd.DataFrame, task: Task) -> LabelShift | None:
    """Shares of the patterns of labels that make the reference's mean probabilities the window's.

    None where fewer than two patterns are common in the reference, or the model cannot tell them.
    """
    names = task.finding_names
    labels = reference[[f"label.{n}" for n in names]].to_numpy(float)
    patterns, members = _patterns(labels)
    if len(patterns) < 2:
        return None
    said = _features(reference[[f"probability.{n}" for n in names]].to_numpy(float))
    now = _features(current[[f"probability.{n}" for n in names]].to_numpy(float)).mean(axis=0)
    means = np.stack([said[m].mean(axis=0) for m in members], axis=1)
    if np.linalg.matrix_rank(means, tol=0.01) < 2:
        return None
    counts = np.array([m.sum() for m in members], float)
    before = counts / counts.sum()
    after = np.maximum(nnls(means, now)[0], LEAST)
    after = after / after.sum()
    ratios = np.ones(len(labels))
    for ratio, rows in zip(after / before, members, strict=True):
        ratios[rows] = ratio
    weights = ratios * ratios.sum() / (ratios**2).sum()
    return LabelShift(_named(names, before @ patterns), _named(names, after @ patterns), weights)


def _patterns(labels: Floats) -> tuple[Floats, list[NDArray[np.bool_]]]:
    """Common patterns of labels (K, F), and which rows have each."""
    known = ~np.isnan(labels).any(axis=1)
    found, place, counts = np.unique(labels[known], axis=0, return_inverse=True, return_counts=True)
    common = np.flatnonzero(counts >= FEWEST_OF_PATTERN)
    codes = np.full(len(labels), -1)
    codes[known] = place.ravel()
    return found[common], [codes == k for k in common]


def _features(said: Floats) -> Floats:
    """1, each probability, and the product of each two, (N, 1 + F + F (F - 1) / 2)."""
    pairs = [said[:, [i]] * said[:, [j]] for i, j in combinations(range(said.shape[1]), 2)]
    return np.hstack([np.ones((len(said), 1)), said, *pairs])


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
