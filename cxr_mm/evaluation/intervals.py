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

from cxr_mm.evaluation.metrics import Floats

LEVEL = 0.95
DEFINED = 0.95
"""Share of resamples in which a figure must be defined before an interval is given."""
DIGITS = 6
"""Digits kept in reports, few enough to be the same on every processor."""


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
            return {"value": rounded(self.value), "ci95": None, "reason": reason}
        return {"value": rounded(self.value), "ci95": [rounded(limit) for limit in limits]}


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


def multiplicities(groups: ArrayLike, resamples: int, seed: int) -> NDArray[np.uint16]:
    """How often each study counts in each resample of groups, (B, N).

    Args:
        groups: (N,) key by which studies belong together.
        resamples: B.
        seed: same seed and groups, same draws, in whatever order the studies stand.
    """
    names, which = np.unique(np.asarray(groups).astype(str), return_inverse=True)
    size = len(names)
    rng = np.random.default_rng(seed)
    counts = np.zeros((resamples, size), dtype=np.uint16)
    for row in counts:
        row[:] = np.bincount(rng.integers(size, size=size), minlength=size)
    return counts[:, which]


def exact_interval(value: float, trials: int) -> tuple[float, float]:
    """Clopper-Pearson limits of a proportion that is 0 or 1 in `trials` independent trials."""
    bound = ((1 - LEVEL) / 2) ** (1 / trials)
    return (bound, 1.0) if value == 1.0 else (0.0, 1.0 - bound)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for being several (Holm, Scand J Stat 1979; 6:65), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(np.maximum.accumulate(stepped), 1.0)
    return [float(value) for value in corrected]


def rounded(value: float) -> float:
    """A figure as reports give it; no minus zero."""
    return round(float(value), DIGITS) + 0.0
