"""Estimates and their intervals: limits by formula where there are any, else a bootstrap.

The bootstrap draws patients (groups), not studies, with replacement, since studies of one patient
resemble each other (Field and Welsh, J R Stat Soc B 2007; 69:369), and takes percentiles (Efron and
Tibshirani, An Introduction to the Bootstrap, 1993). In small samples these cover less than they
promise, so that AUC (`delong`), rates, Brier score and calibration error (`limits`) bring limits of
their own. docs/evaluation.md has the measured coverage.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from cxr_mm.core.types import FEWEST_PATIENTS, LEVEL
from cxr_mm.evaluation.metrics import Floats

Limits = tuple[float, float]
"""Lower and upper limit of a 95 % interval."""
Weights = NDArray[np.uint16]
"""(B, N): how often each study counts in each resample."""
DEFINED = 0.95
"""Share of resamples in which a figure must be defined before an interval is given."""
DIGITS = 6
"""Digits in reports, few enough to be the same on every processor."""


@dataclass(frozen=True)
class Estimate:
    """A figure, its resamples and, where a formula gives them, its limits.

    Args:
        value: the figure, NaN where not defined.
        draws: (B,) the figure in each resample.
        reason: why the value is not defined.
        limits: of the 95 % interval by formula; None takes percentiles of the resamples.
        centred: move the percentiles so that the middle resample falls on the value. For figures
            whose sampling bias the bootstrap adds a second time, as the calibration error.
        least: lowest possible value.
    """

    value: float
    draws: Floats = field(repr=False)
    reason: str = ""
    limits: Limits | None = None
    centred: bool = False
    least: float = -np.inf

    def __sub__(self, other: "Estimate") -> "Estimate":
        """The paired difference; both must come from the same resamples."""
        return Estimate(
            self.value - other.value,
            self.draws - other.draws,
            self.reason or other.reason,
            centred=self.centred or other.centred,
        )

    @property
    def interval(self) -> Limits | None:
        """Limits of the 95 % interval, or None where too few resamples are defined."""
        finite = self.draws[np.isfinite(self.draws)]
        if not np.isfinite(self.value) or finite.size < DEFINED * self.draws.size:
            return None
        if self.limits:
            return self.limits
        tail = (1 - LEVEL) / 2
        low, middle, high = np.quantile(finite, [tail, 0.5, 1 - tail])
        if self.centred:
            low, high = low + self.value - middle, high + self.value - middle
        return max(self.least, float(low)), float(high)

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


def mean_of(estimates: Sequence[Estimate]) -> Estimate:
    """Mean of the estimates that are defined, resample by resample.

    Where the resamples leave nothing to vary, as of rates that are all 1, the limits are the widest
    of theirs.
    """
    defined = [e for e in estimates if np.isfinite(e.value)]
    if not defined:
        reason = estimates[0].reason if estimates else "nothing to average"
        return Estimate(np.nan, np.full(1, np.nan), reason)
    if len(defined) == 1:
        return defined[0]
    draws = np.mean([e.draws for e in defined], axis=0)
    limits = [e.limits for e in defined if e.limits]
    fixed = len(limits) == len(defined) and np.ptp(draws) == 0
    return Estimate(
        float(np.mean([e.value for e in defined])),
        draws,
        limits=(min(low for low, _ in limits), max(high for _, high in limits)) if fixed else None,
        centred=all(e.centred for e in defined),
        least=min(e.least for e in defined),
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
