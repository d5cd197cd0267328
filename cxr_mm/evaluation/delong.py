"""AUC: limits and the test of a difference, from DeLong's covariance with patients as clusters.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988; 44:837; clustered by Obuchowski, Biometrics
1997; 53:567. Limits are on the logit scale (Pepe, The Statistical Evaluation of Medical Tests,
2003), with Student's quantile at Satterthwaite's degrees of freedom (Biometrics Bull 1946; 2:110),
since the smaller class often has few patients. Of separated classes DeLong's variance is 0: half a
study of the smaller class is added to each side, and the variance is that of Hanley and McNeil
(Radiology 1982; 143:29) between patients.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, rankdata, t

from cxr_mm.core.types import FEWEST_PATIENTS, LEVEL
from cxr_mm.evaluation.metrics import Floats, Scored, auc
from cxr_mm.evaluation.resampling import Estimate, Limits, Weights

SAME = 1e-12
"""Variance of a difference below which the two scores order all studies alike."""
TAIL = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Placements:
    """Rank of each study among those of the other class, for S scores.

    Args:
        positives: (S, P) share of negatives below each positive, ties half.
        negatives: (S, N) share of positives above each negative, ties half.
    """

    positives: Floats
    negatives: Floats

    @property
    def auc(self) -> Floats:
        """AUC of each score (S,)."""
        aucs: Floats = self.positives.mean(axis=1)
        return aucs


def placements(labels: Floats, scores: Floats) -> Placements:
    """Placements of every study.

    Args:
        labels: (N,) 1 or 0, both present.
        scores: (S, N).
    """
    yes = labels > 0
    m, n = int(yes.sum()), int((~yes).sum())
    together = rankdata(scores, axis=1)
    above = (together[:, yes] - rankdata(scores[:, yes], axis=1)) / n
    below = 1 - (together[:, ~yes] - rankdata(scores[:, ~yes], axis=1)) / m
    return Placements(above, below)


@dataclass(frozen=True)
class Influence:
    """What each of K patients adds to the AUCs of S scores.

    Args:
        auc: (S,).
        positives: (S, K) by studies with the finding.
        negatives: (S, K) by studies without it.
        with_finding: patients that have a study with it.
        without: patients that have one without it.
    """

    auc: Floats
    positives: Floats
    negatives: Floats
    with_finding: int
    without: int

    @classmethod
    def of(cls, labels: Floats, scores: Floats, patients: ArrayLike | None = None) -> "Influence":
        """Take labels (N,) of both classes, scores (S, N) and keys of patients (N,)."""
        yes = labels > 0
        placed = placements(labels, scores)
        keys = np.arange(len(labels)) if patients is None else np.asarray(patients).astype(str)
        which = np.unique(keys, return_inverse=True)[1]
        count = int(which.max()) + 1
        centre = placed.auc[:, None]
        return cls(
            placed.auc,
            _by_patient(placed.positives - centre, which[yes], count) / yes.sum(),
            _by_patient(placed.negatives - centre, which[~yes], count) / (~yes).sum(),
            len(np.unique(which[yes])),
            len(np.unique(which[~yes])),
        )

    @property
    def defined(self) -> bool:
        """Whether there are patients enough for a variance: two with and two without the finding,
        and `FEWEST_PATIENTS` in all."""
        enough = self.positives.shape[1] >= FEWEST_PATIENTS
        return enough and min(self.with_finding, self.without) > 1

    @property
    def covariance(self) -> Floats:
        """(S, S), by Obuchowski."""
        count = self.positives.shape[1]
        mixed = self.positives @ self.negatives.T * count / (count - 1)
        covariance: Floats = (
            self.positives @ self.positives.T * _unbiased(self.with_finding)
            + self.negatives @ self.negatives.T * _unbiased(self.without)
            + mixed
            + mixed.T
        )
        return covariance

    @property
    def degrees(self) -> Floats:
        """Satterthwaite's degrees of freedom (S,) of each variance, which must not be 0."""
        own = (self.positives**2).sum(axis=1) * _unbiased(self.with_finding)
        other = (self.negatives**2).sum(axis=1) * _unbiased(self.without)
        spread = own**2 / (self.with_finding - 1) + other**2 / (self.without - 1)
        degrees: Floats = (own + other) ** 2 / spread
        return degrees


def _unbiased(count: int) -> float:
    return count / (count - 1)


def _by_patient(values: Floats, which: NDArray[np.intp], count: int) -> Floats:
    """Sums (S, K) over each patient's studies."""
    sums = np.zeros((len(values), count))
    for row, value in zip(sums, values, strict=True):
        row[:] = np.bincount(which, weights=value, minlength=count)
    return sums


def auc_estimate(
    scored: Scored, weights: Weights, patients: ArrayLike, reason: str = ""
) -> Estimate:
    """AUC of N studies, with its limits.

    Args:
        scored: N studies.
        weights: (B, N) how often each study counts in each resample.
        patients: (N,) key by which studies belong together.
        reason: why it may be undefined.
    """
    limits = auc_limits(scored.labels, scored.probabilities, patients)
    return Estimate(float(auc(scored)[0]), auc(scored, weights), reason, limits)


def auc_limits(labels: Floats, scores: Floats, patients: ArrayLike) -> Limits | None:
    """95 % limits of the AUC; None of too few patients (`Influence.defined`).

    Args:
        labels: (N,) 1 or 0.
        scores: (N,).
        patients: (N,) key by which studies belong together.
    """
    if not 0 < labels.sum() < len(labels):
        return None
    found = Influence.of(labels, scores[None], patients)
    if not found.defined:
        return None
    value, variance = float(found.auc[0]), float(found.covariance[0, 0])
    if value in (0.0, 1.0):
        nearer, spread = separated(value, found.with_finding, found.without)
        low, high = _on_logits(nearer, spread, norm.isf(TAIL))
        return (low, 1.0) if value else (0.0, high)
    if variance < SAME:
        return value, value
    return _on_logits(value, variance, float(t.isf(TAIL, found.degrees[0])))


def separated(value: float, with_finding: int, without: int) -> tuple[float, float]:
    """An AUC of 0 or 1 with half a study added to each side, and its variance.

    Args:
        value: 0 or 1.
        with_finding, without: patients.
    """
    fewer = min(with_finding, without)
    nearer = (value * fewer + 0.5) / (fewer + 1)
    # Scores turned round are as sure, which the formula is not: it is meant for AUCs above a half.
    return nearer, auc_variance(max(nearer, 1 - nearer), with_finding, without)


def auc_variance(auc: float, positives: int, negatives: int) -> float:
    """Variance of an AUC between so many independent positives and negatives."""
    of_positives, of_negatives = auc / (2 - auc) - auc**2, 2 * auc**2 / (1 + auc) - auc**2
    spread = auc * (1 - auc) + (positives - 1) * of_positives + (negatives - 1) * of_negatives
    return spread / (positives * negatives)


def _on_logits(value: float, variance: float, quantile: float) -> Limits:
    reach = quantile * np.sqrt(variance) / (value * (1 - value))
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


@dataclass(frozen=True)
class AucTest:
    """Difference of two AUCs; `p` is of the hypothesis that there is none (two-sided)."""

    difference: float
    error: float
    p: float

    @property
    def limits(self) -> Limits:
        """95 % limits of the difference, which exclude 0 where p is below 0.05."""
        reach = float(norm.isf(TAIL)) * self.error
        return self.difference - reach, self.difference + reach


def auc_test(
    labels: Floats, scores: Sequence[Floats], patients: ArrayLike | None = None
) -> AucTest | None:
    """Test the difference of the first score's AUC and the second's.

    Returns:
        None where the test is not defined (`Influence.defined`).
    """
    if not 0 < labels.sum() < len(labels):
        return None
    found = Influence.of(labels, np.stack(scores), patients)
    if not found.defined:
        return None
    contrast = np.array([1.0, -1.0])
    variance = float(contrast @ found.covariance @ contrast)
    difference = float(contrast @ found.auc)
    if variance < SAME:
        return AucTest(difference, 0.0, 1.0 if difference == 0 else float("nan"))
    error = float(np.sqrt(variance))
    return AucTest(difference, error, float(2 * norm.sf(abs(difference) / error)))
