"""Gaps: whether groups of patients differ in a figure by more than chance.

The groups' figures vary together over resamples of patients; with their covariance all pairs are
compared at once by the maximum of the studentised differences (Hothorn, Bretz and Westfall,
Biometrical Journal 2008; 50:346). A resample cannot vary a rate of 0 or an AUC of 1, and in a small
group varies every figure too little. Differences and their limits are therefore of figures shrunken
a little towards a half, and no variance counts as less than theirs (rates: Agresti and Caffo, Am
Stat 2000; 54:280; AUC: Hanley and McNeil, Radiology 1982; 143:29).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self

import numpy as np

from cxr_mm.evaluation.intervals import LEVEL, Estimate, rounded
from cxr_mm.evaluation.metrics import Floats

SIMULATED = 10_000
"""Draws from the joint normal distribution behind each p value and limit."""
JITTER = 1e-12


@dataclass(frozen=True)
class Measured:
    """A group's figure.

    Args:
        group: name.
        estimate: a rate or AUC; the resamples of all groups come from the same patients drawn.
        shrunken: the figure, a little nearer to a half.
        least_variance: what the sampling variance is at least.
    """

    group: str
    estimate: Estimate
    shrunken: float
    least_variance: float

    @classmethod
    def rate(cls, group: str, estimate: Estimate, trials: int) -> Self:
        """A rate counted in `trials` independent trials, to which one of each outcome is added."""
        shrunken = (estimate.value * trials + 1) / (trials + 2)
        return cls(group, estimate, shrunken, shrunken * (1 - shrunken) / (trials + 2))

    @classmethod
    def auc(cls, group: str, estimate: Estimate, positives: int, negatives: int) -> Self:
        """An AUC between so many independent positives and negatives."""
        fewer = min(positives, negatives)
        shrunken = (estimate.value * fewer + 0.5) / (fewer + 1)
        return cls(group, estimate, shrunken, auc_variance(shrunken, positives, negatives))


@dataclass(frozen=True)
class Pair:
    """Difference between two groups, with limits that hold for all pairs at once.

    `difference` is that of the figures as reported, the limits lie around that of shrunken ones.
    """

    higher: str
    lower: str
    difference: float
    low: float
    high: float

    def to_json(self) -> dict[str, Any]:
        return {
            "higher": self.higher,
            "lower": self.lower,
            "value": rounded(self.difference),
            "ci95": [rounded(self.low), rounded(self.high)],
        }


@dataclass(frozen=True)
class Gap:
    """How far apart the groups are.

    Args:
        largest: the pair that differs most.
        clearest: the pair that differs most for its standard error.
        p: of the hypothesis that all groups are equal.
        excludes_equality: whether the interval of `clearest` does not hold 0.
    """

    largest: Pair
    clearest: Pair
    p: float
    excludes_equality: bool

    def to_json(self) -> dict[str, Any]:
        return {
            **self.largest.to_json(),
            "clearest": self.clearest.to_json(),
            "p": rounded(self.p),
            "excludes_equality": self.excludes_equality,
        }


def gap_between(measured: Sequence[Measured], seed: int) -> Gap | None:
    """Compare all pairs of groups that have an interval; None where these are fewer than two."""
    measured = [m for m in measured if m.estimate.interval]
    if len(measured) < 2:
        return None
    draws = np.stack([m.estimate.draws for m in measured], axis=1)
    defined = np.isfinite(draws).all(axis=1)
    values = np.array([m.estimate.value for m in measured])
    covariance = np.atleast_2d(np.cov(draws[defined], rowvar=False))
    least = np.array([m.least_variance for m in measured])
    covariance[np.diag_indices_from(covariance)] = np.maximum(np.diag(covariance), least)
    pairs = np.array(list(combinations(range(len(values)), 2)))
    contrast = np.zeros((len(pairs), len(values)))
    contrast[np.arange(len(pairs)), pairs[:, 0]] = 1
    contrast[np.arange(len(pairs)), pairs[:, 1]] = -1
    error = np.sqrt(np.einsum("pi,ij,pj->p", contrast, covariance, contrast))
    difference = contrast @ values
    shrunken = contrast @ np.array([m.shrunken for m in measured])
    largest_of = _largest_of_all(contrast, covariance, error, seed)
    limit = float(np.quantile(largest_of, LEVEL))

    def pair(at: int) -> Pair:
        first, second = (measured[i].group for i in pairs[at])
        sign = 1.0 if difference[at] >= 0 else -1.0
        if sign < 0:
            first, second = second, first
        middle, half = sign * float(shrunken[at]), limit * float(error[at])
        low, high = max(-1.0, middle - half), min(1.0, middle + half)
        return Pair(first, second, float(sign * difference[at]), low, high)

    ratio = np.abs(shrunken) / error
    clearest = int(ratio.argmax())
    p = (1 + (largest_of >= ratio[clearest]).sum()) / (1 + SIMULATED)
    return Gap(
        largest=pair(int(np.abs(difference).argmax())),
        clearest=pair(clearest),
        p=float(p),
        excludes_equality=bool(ratio[clearest] > limit),
    )


def _largest_of_all(contrast: Floats, covariance: Floats, error: Floats, seed: int) -> Floats:
    """Largest studentised difference (S,) where all groups are equal."""
    size = len(covariance)
    root = np.linalg.cholesky(covariance + JITTER * np.trace(covariance) * np.eye(size))
    normal = np.random.default_rng(seed).standard_normal((SIMULATED, size))
    largest: Floats = np.abs(normal @ root.T @ contrast.T / error).max(axis=1)
    return largest


def auc_variance(auc: float, positives: int, negatives: int) -> float:
    """Variance of an AUC between so many independent positives and negatives."""
    of_positives, of_negatives = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    spread = auc * (1 - auc) + (positives - 1) * of_positives + (negatives - 1) * of_negatives
    return spread / (positives * negatives)
