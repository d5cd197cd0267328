"""Shift tests: predicted prevalence, rejected images, and label shift as an explanation.

- `score_prevalence`: normal test of the mean predicted probability of each finding, Bonferroni over
  findings, spreads of windows drawn from the reference by patient. A change of prevalence moves
  many columns a little, so that one number a finding detects it sooner than all data checks.
- `score_rejected`: Fisher's exact test of the share of images that the input gate rejects.
- `label_shift`: prevalences that would explain the window (black box shift estimation, Lipton et
  al., ICML 2018).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import nnls
from scipy.stats import hypergeom, norm

from cxr_mm.core.task import Task
from monitoring.statistics import as_codes, draw_windows, normal_score

DRAWS = 200
REJECTED_TITLE = "Images rejected as no frontal chest radiograph"


@dataclass(frozen=True)
class PredictedPrevalence:
    """Mean predicted probabilities.

    Args:
        before, after: finding → mean of the reference and of the window.
        score: of the largest change, in standard deviations of a normal variable.
    """

    before: dict[str, float]
    after: dict[str, float]
    score: float

    @property
    def change(self) -> str:
        """Changes in words, largest first."""
        return f"mean predicted probability of {_changes(self.before, self.after)}"


def score_prevalence(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> PredictedPrevalence:
    """Score the predicted prevalence of a window."""
    columns = [f"probability.{name}" for name in findings]
    now, past = (t[columns].to_numpy(float) for t in (current, reference))
    patients = as_codes(reference["patient"].to_numpy(object))
    sampled = draw_windows(patients, len(now), DRAWS, np.random.default_rng(seed))
    inside = sampled @ past / sampled.sum(axis=1, keepdims=True)
    external = (1 - sampled) @ past / (1 - sampled).sum(axis=1, keepdims=True)
    shrink = _shrinkage(len(now), len(past), float(sampled[0].sum()))
    spread = np.maximum(shrink * (inside - external).std(axis=0), 1 / len(now) / 10)
    before, after = past.mean(axis=0), now.mean(axis=0)
    chance = min(1.0, 2 * len(findings) * norm.sf(np.abs(after - before) / spread).min())
    return PredictedPrevalence(
        dict(zip(findings, before.tolist(), strict=True)),
        dict(zip(findings, after.tolist(), strict=True)),
        normal_score(chance),
    )


def _shrinkage(current: int, reference: int, sampled: float) -> float:
    """Spread of window minus reference over that of a sampled window minus its complement."""
    return float(
        np.sqrt((1 / current + 1 / reference) / (1 / sampled + 1 / max(reference - sampled, 1.0)))
    )


@dataclass(frozen=True)
class RejectedImages:
    """Shares of images that the input gate rejects.

    Args:
        rejected, images: of the window.
        rejected_before, images_before: of the reference.
        score: of the change upwards, in standard deviations of a normal variable.
    """

    rejected: int
    images: int
    rejected_before: int
    images_before: int
    score: float

    @property
    def change(self) -> str:
        """The change in words."""
        before = 100 * self.rejected_before / max(self.images_before, 1)
        after = 100 * self.rejected / max(self.images, 1)
        return f"{before:.1f} % → {after:.1f} % ({self.rejected} of {self.images})"


def score_rejected(
    rejected: int, images: int, rejected_before: int, images_before: int
) -> RejectedImages | None:
    """Score a window; None where it or the reference has no image."""
    if not images or not images_before:
        return None
    together = rejected + rejected_before
    chance = float(hypergeom.sf(rejected - 1, images + images_before, together, images))
    return RejectedImages(rejected, images, rejected_before, images_before, normal_score(chance))


Floats = NDArray[np.float64]
LEAST = 0.005
"""Smallest share that a common pattern of labels is estimated at."""
FEWEST_OF_PATTERN = 5


@dataclass(frozen=True)
class LabelShift:
    """Prevalences that would explain the probabilities of a window.

    Args:
        before, after: finding → prevalence of the reference, estimate for the window.
        weights: (N,) of the reference's rows; they add up to the number of rows that, drawn
            evenly, would vary as these weighted ones do.
    """

    before: dict[str, float]
    after: dict[str, float]
    weights: Floats

    @property
    def text(self) -> str:
        """The change in words."""
        changes = _changes(self.before, self.after, "about ")
        return f"Prevalence: {changes} would explain what moved"


def label_shift(current: pd.DataFrame, reference: pd.DataFrame, task: Task) -> LabelShift | None:
    """Shares of the patterns of labels that make the reference's mean probabilities the window's.

    None where fewer than two patterns are common in the reference, or the model cannot distinguish
    them.
    """
    names = task.finding_names
    labels = reference[[f"label.{n}" for n in names]].to_numpy(float)
    patterns, members = _patterns(labels)
    if len(patterns) < 2:
        return None
    features = _features(reference[[f"probability.{n}" for n in names]].to_numpy(float))
    now = _features(current[[f"probability.{n}" for n in names]].to_numpy(float)).mean(axis=0)
    means = np.stack([features[m].mean(axis=0) for m in members], axis=1)
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
    patterns, codes_of_known, counts = np.unique(
        labels[known], axis=0, return_inverse=True, return_counts=True
    )
    common = np.flatnonzero(counts >= FEWEST_OF_PATTERN)
    codes = np.full(len(labels), -1)
    codes[known] = codes_of_known.ravel()
    return patterns[common], [codes == k for k in common]


def _features(probabilities: Floats) -> Floats:
    """1, each probability, and the product of each two, (N, 1 + F + F (F - 1) / 2)."""
    pairs = [
        probabilities[:, [i]] * probabilities[:, [j]]
        for i, j in combinations(range(probabilities.shape[1]), 2)
    ]
    return np.hstack([np.ones((len(probabilities), 1)), probabilities, *pairs])


def _changes(before: dict[str, float], after: dict[str, float], about: str = "") -> str:
    """Changes of prevalence in words, largest first."""
    return ", ".join(
        f"{name} {100 * before[name]:.0f} % → {about}{100 * after[name]:.0f} %"
        for name in sorted(before, key=lambda n: -abs(after[n] - before[n]))
    )


def _named(names: Sequence[str], values: Floats) -> dict[str, float]:
    return dict(zip(names, values.tolist(), strict=True))
