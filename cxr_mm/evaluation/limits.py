"""Limits by formula of rates, of a mean, and of the calibration error; patients are clusters.

Rates: Wilson's interval (JASA 1927; 22:209) of as many independent studies as the clustered
variance is worth, no more than there are (Korn and Graubard, Survey Methodology 1998; 24:193).
Means of values in [0, 1]: Student's interval on the logit scale. Calibration error: see
`calibration_error`.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import expit, logit
from scipy.stats import norm, t

from cxr_mm.core.types import LEVEL
from cxr_mm.evaluation.metrics import (
    ECE_BINS,
    Floats,
    Scored,
    equal_mass_bins,
    expected_calibration_error,
)
from cxr_mm.evaluation.resampling import Estimate, Limits, Weights, rounded

TAIL = (1 - LEVEL) / 2
NORMAL = float(norm.isf(TAIL))
GRID = np.linspace(0, 1, 1001)
"""Calibration errors that are tried; three digits, as reports give it."""


def rate_limits(
    counted: NDArray[np.bool_], among: NDArray[np.bool_], patients: ArrayLike
) -> Limits | None:
    """Limits of the share of some studies that has a property; None where there is no such study.

    Args:
        counted: (N,) studies with the property.
        among: (N,) studies of which the share is.
        patients: (N,) key by which studies belong together.
    """
    if not among.any():
        return None
    value = float(counted[among].mean())
    size = worth(counted[among].astype(np.float64), _codes(np.asarray(patients)[among]))
    return wilson(value, size)


def wilson(value: float, size: float) -> Limits:
    """Wilson's interval of a share of so many independent studies."""
    middle = (value + NORMAL**2 / (2 * size)) / (1 + NORMAL**2 / size)
    spread = value * (1 - value) / size + NORMAL**2 / (4 * size**2)
    reach = NORMAL * float(np.sqrt(spread)) / (1 + NORMAL**2 / size)
    return max(0.0, middle - reach), min(1.0, middle + reach)


def worth(hits: Floats, which: NDArray[np.intp]) -> float:
    """How many independent studies tell a share as surely; patients where all are alike.

    Args:
        hits: (N,) 1 or 0.
        which: (N,) number of each study's patient.
    """
    value = float(hits.mean())
    variance = clustered_variance(hits, which)
    return effective_size(len(hits), int(which.max()) + 1, value * (1 - value), variance)


def effective_size(studies: float, patients: float, variance: float, of_mean: float) -> float:
    """How many independent studies tell a mean as surely; patients where all are alike.

    Args:
        studies, patients: how many there are.
        variance: between studies.
        of_mean: variance of the mean, patients drawn.
    """
    if patients == studies or not of_mean:
        return float(patients)
    return min(float(studies), variance / of_mean)


def clustered_variance(values: Floats, which: NDArray[np.intp]) -> float:
    """Variance of the mean (N,) of studies of so many patients; 0 of one patient."""
    sums = np.bincount(which, weights=values - values.mean())
    return float(sums @ sums) / len(values) ** 2 * len(sums) / max(len(sums) - 1, 1)


def mean_limits(values: Floats, patients: ArrayLike) -> Limits | None:
    """Limits of the mean of values (N,) in [0, 1]; None of fewer than two patients.

    A mean of exactly 0 or 1 has no spread and is its own limits.
    """
    which = _codes(patients)
    if not len(which) or which.max() == 0:
        return None
    value = float(values.mean())
    if value in (0.0, 1.0):
        return value, value
    error = np.sqrt(clustered_variance(values, which)) / (value * (1 - value))
    reach = float(t.isf(TAIL, which.max())) * error
    return float(expit(logit(value) - reach)), float(expit(logit(value) + reach))


def _codes(patients: ArrayLike) -> NDArray[np.intp]:
    return np.unique(np.asarray(patients).astype(str), return_inverse=True)[1]


@dataclass(frozen=True)
class CalibrationError:
    """Calibration error of a sample, and what chance alone would make of it.

    Args:
        plug_in: mean over studies of their bin's |mean probability − share of positives|.
        value: the same without the part that chance is expected to add.
        limits: of the 95 % interval around `value`.
        band: within which a perfectly calibrated model's plug-in is in 95 of 100 samples like this.
    """

    plug_in: float
    value: float
    limits: Limits
    band: Limits

    def band_to_json(self) -> dict[str, float | list[float]]:
        return {"plug_in": rounded(self.plug_in), "calibrated": [rounded(x) for x in self.band]}


def calibration_error(scored: Scored, patients: ArrayLike) -> CalibrationError | None:
    """Remove chance from the calibration error; None without a study.

    The plug-in is a mean of absolute values, so that chance adds to it: were every bin wrong by d,
    a bin's difference would be normal around ±d, and its absolute value folded normal (Leone et
    al., Technometrics 1961; 3:543). `value` is the d whose expected plug-in is the one that was
    found, 0 where even d = 0 is expected to show more; the limits are those d that a test at 5 %
    does not reject, and the band is the test of d = 0 (cf. Bröcker and Smith, Weather Forecast
    2007; 22:651).
    """
    if not len(scored):
        return None
    plug_in = float(expected_calibration_error(scored)[0])
    expected, variance = _plug_in_by_error(scored, _codes(patients))
    reach = NORMAL * np.sqrt(variance)
    held = GRID[np.abs(plug_in - expected) <= reach]
    value = float(np.interp(plug_in, expected, GRID))
    limits = (min(value, float(held[0])), max(value, float(held[-1]))) if len(held) else None
    band = (max(0.0, float(expected[0] - reach[0])), float(expected[0] + reach[0]))
    return CalibrationError(plug_in, value, limits or (value, value), band)


def _plug_in_by_error(scored: Scored, which: NDArray[np.intp]) -> tuple[Floats, Floats]:
    """Mean and variance of the plug-in (G,) for each true error of GRID.

    Labels vary as the probabilities say, more by what studies of a patient share: within bins for
    the mean, over all bins for the variance. Beyond d = 0 the variance is at least that observed.
    """
    p, error = scored.probabilities, scored.probabilities - scored.labels
    bins = equal_mass_bins(p)
    sizes = np.bincount(bins, minlength=ECE_BINS)
    there = sizes > 0
    share = sizes[there] / len(p)
    cells = np.bincount(which * ECE_BINS + bins, weights=error)
    alone, within, over = (float(x @ x) for x in (error, cells, np.bincount(which, weights=error)))
    shared = max(1.0, within / alone) if alone else 1.0
    spread = np.sqrt(shared * np.bincount(bins, p * (1 - p), ECE_BINS)[there]) / sizes[there]
    means, variances = _folded(GRID[:, None], spread[None])
    variance = variances @ share**2 * (max(1.0, over / within) if within else 1.0)
    sums = np.bincount(bins, error, ECE_BINS)
    centred = error - (sums / np.maximum(sizes, 1))[bins]
    observed = clustered_variance(np.sign(sums)[bins] * centred, which)
    variance[1:] = np.maximum(variance[1:], observed)
    return means @ share, variance


def _folded(distance: Floats, spread: Floats) -> tuple[Floats, Floats]:
    """Mean and variance of the absolute value of normal variables."""
    ratio = np.divide(
        distance,
        spread,
        out=np.full(np.broadcast(distance, spread).shape, np.inf),
        where=spread > 0,
    )
    mean = spread * np.sqrt(2 / np.pi) * np.exp(-(ratio**2) / 2) + distance * (
        1 - 2 * norm.cdf(-ratio)
    )
    return mean, np.maximum(distance**2 + spread**2 - mean**2, 0)


def ece_estimate(scored: Scored, weights: Weights, patients: ArrayLike) -> Estimate:
    """Calibration error without chance, with its limits; resamples are of the plug-in.

    Args:
        scored: N studies.
        weights: (B, N) how often each study counts in each resample.
        patients: (N,) key by which studies belong together.
    """
    found = calibration_error(scored, patients)
    draws = expected_calibration_error(scored, weights)
    if found is None:
        return Estimate(np.nan, draws, "no study has a label")
    return Estimate(found.value, draws, limits=found.limits, centred=True, least=0.0)
