"""DeLong: covariance of AUCs measured on the same studies, and the test of their difference.

DeLong, DeLong and Clarke-Pearson, Biometrics 1988; 44:837, by midranks (Sun and Xu, IEEE Signal
Processing Letters 2014; 21:1389). Films of one patient are not independent: their placements are
added up by patient (Obuchowski, Biometrics 1997; 53:567). With one study a patient, her covariance
is DeLong's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import norm, rankdata

from cxr_mm.evaluation.metrics import Floats

SAME = 1e-12
"""Variance of a difference below which the two scores order all studies alike."""


@dataclass(frozen=True)
class Placements:
    """Where each study stands among those of the other class, for S scores.

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


@dataclass(frozen=True)
class AucTest:
    """Difference of two AUCs; `p` is of the hypothesis that there is none (two-sided)."""

    difference: float
    error: float
    p: float


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


def auc_covariance(labels: Floats, scores: Floats, patients: ArrayLike | None = None) -> Floats:
    """Covariance (S, S) of the AUCs of S scores of the same studies.

    Args:
        labels: (N,) 1 or 0, at least two patients with each.
        scores: (S, N).
        patients: (N,) key by which studies belong together; None takes each alone.
    """
    yes = labels > 0
    place = placements(labels, scores)
    auc = place.auc[:, None]
    keys = np.arange(len(labels)) if patients is None else np.asarray(patients).astype(str)
    which = np.unique(keys, return_inverse=True)[1]
    count = int(which.max()) + 1
    m, n = int(yes.sum()), int((~yes).sum())
    positive = _by_patient(place.positives - auc, which[yes], count)
    negative = _by_patient(place.negatives - auc, which[~yes], count)
    with_positive = len(np.unique(which[yes]))
    with_negative = len(np.unique(which[~yes]))
    mixed = positive @ negative.T / (m * n) * count / (count - 1)
    covariance: Floats = (
        positive @ positive.T / m**2 * with_positive / (with_positive - 1)
        + negative @ negative.T / n**2 * with_negative / (with_negative - 1)
        + mixed
        + mixed.T
    )
    return covariance


def _by_patient(values: Floats, which: NDArray[np.intp], count: int) -> Floats:
    """Sums (S, I) over each patient's studies."""
    sums = np.zeros((len(values), count))
    for row, value in zip(sums, values, strict=True):
        row[:] = np.bincount(which, weights=value, minlength=count)
    return sums


def auc_test(
    labels: Floats, scores: Sequence[Floats], patients: ArrayLike | None = None
) -> AucTest | None:
    """Test the difference of the first score's AUC and the second's.

    Returns:
        None where the test is not defined: fewer than two patients with, or without, the finding.
    """
    yes = labels > 0
    keys = np.arange(len(labels)) if patients is None else np.asarray(patients).astype(str)
    if min(len(np.unique(keys[yes])), len(np.unique(keys[~yes]))) < 2:
        return None
    both = np.stack(scores)
    first, second = placements(labels, both).auc
    covariance = auc_covariance(labels, both, keys)
    variance = float(covariance[0, 0] + covariance[1, 1] - 2 * covariance[0, 1])
    difference = float(first - second)
    if variance < SAME:
        return AucTest(difference, 0.0, 1.0 if difference == 0 else float("nan"))
    error = float(np.sqrt(variance))
    return AucTest(difference, error, float(2 * norm.sf(abs(difference) / error)))
