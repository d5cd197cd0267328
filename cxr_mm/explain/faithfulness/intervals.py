"""Intervals: a mean over studies with the percentiles of a bootstrap over patients."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

RESAMPLES = 1000


def mean_with_interval(
    values: Sequence[float], patients: Sequence[str], seed: int
) -> dict[str, float]:
    """Mean and 95 % interval, resampling patients with all their studies."""
    codes, names = pd.factorize(np.asarray(patients, dtype=object))
    sums = np.bincount(codes, weights=np.asarray(values, dtype=np.float64))
    sizes = np.bincount(codes)
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, len(names), size=(RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return {"value": float(sums.sum() / sizes.sum()), "low": float(low), "high": float(high)}
