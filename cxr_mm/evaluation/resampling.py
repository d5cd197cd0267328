"""Intervals: the bootstrap over patients, and differences between predictions of the same studies.

Patients (groups), not studies, are drawn with replacement, since studies of one patient resemble
each other (Field and Welsh, J R Stat Soc B 2007; 69:369); percentile limits (Efron and Tibshirani,
An Introduction to the Bootstrap, 1993); exact binomial limits (Clopper and Pearson, Biometrika
1934; 26:404) where a proportion of 0 or 1 leaves the bootstrap nothing to vary.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest, norm, rankdata

from cxr_mm.core.types import FEWEST_PATIENTS, LEVEL
from cxr_mm.evaluation.metrics import Floats, Scored, auc

Weights = NDArray[np.uint16]
"""(B, N): how often each study counts in each resample."""
DEFINED = 0.95
"""Share of resamples in which a figure must be defined before an interval is given."""
DIGITS = 6
"""Digits in reports, few enough to be the same on every processor."""


@dataclass(frozen=True)
class Estimate:
    """A figure and its resamples.

    Args:
        value: the figure, NaN where not defined.
        draws: (B,) the figure in each resample.
        reason: why the value is not defined.
        trials: for a proportion, how many patients it counts; 0 for any other figure.
        centred: move the interval so that the middle resample falls on the value. For figures
            whose sampling bias the bootstrap adds a second time, as the calibration error.
    """

    value: float
    draws: Floats = field(repr=False)
    reason: str = ""
    trials: int = 0
    centred: bool = False

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference; both must come from the same resamples."""
        return Estimate(
            self.value - other.value, self.draws - other.draws, self.reason or other.reason
        )

    @property
    def interval(self) -> tuple[float, float] | None:
        """Limits of the 95 % interval, or None where too few resamples are defined."""
        finite = self.draws[np.isfinite(self.draws)]
        if not np.isfinite(self.value) or finite.size < DEFINED * self.draws.size:
            return None
        if self.trials and self.value in (0.0, 1.0):
            return exact_interval(self.value, self.trials)
        tail = (1 - LEVEL) / 2
        low, middle, high = np.quantile(finite, [tail, 0.5, 1 - tail])
        if self.centred:
            low, high = max(0.0, low + self.value - middle), high + self.value - middle
        return float(low), float(high)

    def to_json(self) -> dict[str, Any]:
        """`value`, `ci95` and, where one of them is null, `reason`."""
        if not np.isfinite(self.value):
            return {"value": None, "ci95": None, "reason": self.reason or "not defined"}
        limits = self.interval
        if limits is None:
            share = 1 - np.isfinite(self.draws).mean()
            reason = f"too few patients: not defined in {share:.0%} of the resamples"
            if share == 1:
                reason = f"too few patients for an interval (at least {FEWEST_PATIENTS})"
            return {"value": rounded(self.value), "ci95": None, "reason": reason}
        return {"value": rounded(self.value), "ci95": [rounded(limit) for limit in limits]}


def auc_estimate(scored: Scored, weights: Weights, reason: str = "") -> Estimate:
    """AUC of the studies and of each resample (B, N); `reason` says why it may be undefined."""
    return Estimate(float(auc(scored)[0]), auc(scored, weights), reason)


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of the estimates that are defined, resample by resample.

    A mean of proportions counts as many patients as the smallest of them.
    """
    defined = [e for e in estimates if np.isfinite(e.value)]
    if not defined:
        reason = estimates[0].reason if estimates else "nothing to average"
        return Estimate(np.nan, np.full(1, np.nan), reason)
    return Estimate(
        float(np.mean([e.value for e in defined])),
        np.mean([e.draws for e in defined], axis=0),
        trials=min(e.trials for e in defined),
        centred=all(e.centred for e in defined),
    )


def multiplicities(groups: ArrayLike, resamples: int, seed: int) -> Weights:
    """How often each study counts in each resample of groups, (B, N).

    Of fewer than `FEWEST_PATIENTS` groups nothing is drawn: all counts are 0, by which no figure is
    defined in any resample and none gets an interval.

    Args:
        groups: (N,) key by which studies belong together.
        resamples: B.
        seed: same seed and groups, same draws, in whatever order the studies stand.
    """
    names, which = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    size = len(names)
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, size), dtype=np.uint16)
    for row in counts if size >= FEWEST_PATIENTS else ():
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return counts[:, which]


def exact_interval(value: float, trials: int) -> tuple[float, float]:
    """Clopper-Pearson limits of a proportion of independent trials."""
    limits = binomtest(round(value * trials), trials).proportion_ci(LEVEL)
    return float(limits.low), float(limits.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being several (Holm, Scand J Stat 1979; 6:65), in the order given."""
    if not p_values:
        return []
    # Imported where it is needed: it takes two seconds, which monitoring need not wait for.
    from statsmodels.stats.multitest import multipletests

    _, corrected, _, _ = multipletests(p_values, method="holm")
    return [float(value) for value in corrected]


def rounded(value: float) -> float:
    """A figure as reports give it; no minus zero."""
    return round(float(value), DIGITS) + 0.0


SAME = 1e-12
"""Variance of a difference below which the two scores order all studies alike."""


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
    placed = placements(labels, scores)
    auc = placed.auc[:, None]
    keys = np.arange(len(labels)) if patients is None else np.asarray(patients).astype(str)
    which = np.unique(keys, return_inverse=True)[1]
    count = int(which.max()) + 1
    m, n = int(yes.sum()), int((~yes).sum())
    positive = _by_patient(placed.positives - auc, which[yes], count)
    negative = _by_patient(placed.negatives - auc, which[~yes], count)
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
        None where the test is not defined: fewer than two patients with, or without, the finding,
        or fewer than `FEWEST_PATIENTS` in all.
    """
    yes = labels > 0
    keys = np.arange(len(labels)) if patients is None else np.asarray(patients).astype(str)
    if min(len(np.unique(keys[yes])), len(np.unique(keys[~yes]))) < 2:
        return None
    if len(np.unique(keys)) < FEWEST_PATIENTS:
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
