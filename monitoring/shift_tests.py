"""Prevalence: whether the mean predicted probability of any finding has moved.

A change of prevalence moves many columns a little and the answers most of all, so that a test of
its own, one number a finding, sees it sooner than a test over all columns. Spreads are those of
windows drawn from the reference by patient; findings are corrected for by Bonferroni.
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
    def text(self) -> str:
        """From where to where, most moved first."""
        ranked = sorted(self.before, key=lambda n: -abs(self.after[n] - self.before[n]))
        moved = ", ".join(
            f"{name} {100 * self.before[name]:.0f} % → {100 * self.after[name]:.0f} %"
            for name in ranked
        )
        return f"Prevalence: mean predicted probability of {moved}"


def score_prevalence(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> PredictedPrevalence:
    """Score a window."""
    columns = [f"probability.{name}" for name in findings]
    here, present = (t[columns].to_numpy(float) for t in (current, reference))
    patients = as_codes(reference["patient"].to_numpy(object))
    sampled = draw_windows(patients, len(here), DRAWS, np.random.default_rng(seed))
    inside = sampled @ present / sampled.sum(axis=1, keepdims=True)
    external = (1 - sampled) @ present / (1 - sampled).sum(axis=1, keepdims=True)
    shrink = _shrinkage(len(here), len(present), float(sampled[0].sum()))
    spread = np.maximum(shrink * (inside - external).std(axis=0), 1 / len(here) / 10)
    before, after = present.mean(axis=0), here.mean(axis=0)
    chance = min(1.0, 2 * len(findings) * norm.sf(np.abs(after - before) / spread).min())
    return PredictedPrevalence(
        dict(zip(findings, before.tolist(), strict=True)),
        dict(zip(findings, after.tolist(), strict=True)),
        normal_score(chance),
    )


def _shrinkage(current: int, reference: int, drawn: float) -> float:
    """Spread of window minus reference over that of drawn window minus the rest."""
    return float(
        np.sqrt((1 / current + 1 / reference) / (1 / drawn + 1 / max(reference - drawn, 1.0)))
    )


@dataclass(frozen=True)
class RejectedImages:
    """Shares of images that the gate refuses.

    Args:
        refused, images: of the window.
        refused_before, images_before: of the reference.
        score: of the change upwards, in standard deviations of a normal variable.
    """

    refused: int
    images: int
    refused_before: int
    images_before: int
    score: float

    @property
    def text(self) -> str:
        """From where to where."""
        before = 100 * self.refused_before / max(self.images_before, 1)
        return (
            f"Images refused as no frontal chest radiograph: {before:.1f} % → "
            f"{100 * self.refused / max(self.images, 1):.1f} % ({self.refused} of {self.images})"
        )


def score_refused(
    refused: int, images: int, refused_before: int, images_before: int
) -> RejectedImages | None:
    """Score a window; None where it or the reference has no image."""
    if not images or not images_before:
        return None
    together = refused + refused_before
    chance = float(hypergeom.sf(refused - 1, images + images_before, together, images))
    return RejectedImages(refused, images, refused_before, images_before, normal_score(chance))


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
    result = _features(reference[[f"probability.{n}" for n in names]].to_numpy(float))
    now = _features(current[[f"probability.{n}" for n in names]].to_numpy(float)).mean(axis=0)
    means = np.stack([result[m].mean(axis=0) for m in members], axis=1)
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
