"""Estimated performance before labels come: what the model's own probabilities foretell.

A calibrated probability says how often the finding will turn out to be there, so the expected
confusion table, AUC and Brier score follow from probabilities and decisions alone (confidence-based
performance estimation; Guillory et al., ICCV 2021). It holds as long as calibration does: where
labels have come, the estimate is held against them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.concept import METRICS, Metric, labelled, performance

ESTIMATED: tuple[Metric, ...] = tuple(m for m in METRICS if m != "calibration")
"""Calibration in the large is 0 by assumption."""
DRAWS = 200
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """One metric of one finding, foretold.

    Args:
        finding: name of the finding.
        metric: which figure.
        reference: what it was on the reference's labels.
        value, low, high: foretold for the window, 95 % of outcomes that the probabilities allow.
        labelled: how many of the window's studies have a label by now.
        foretold, found: of those alone, foretold and as their labels have it; NaN without.
        held: whether what was found lies within what their probabilities allow; None without.
    """

    finding: str
    metric: Metric
    reference: float
    value: float
    low: float
    high: float
    labelled: int
    foretold: float
    found: float
    held: bool | None


def estimate(
    current: pd.DataFrame, reference: pd.DataFrame, findings: Sequence[str], seed: int = 0
) -> list[Estimate]:
    """Foretell the performance on a window.

    Outcomes are drawn from the probabilities; their mean and spread are the estimate and its
    interval.
    """
    known = labelled(reference, findings)
    there = performance(known, findings) if len(known) else {}
    here = labelled(current, findings)
    truth = performance(here, findings) if len(here) else {}
    whole, part = _foretold(current, findings, seed), _foretold(here, findings, seed)
    return [
        _estimate(key, _one(there, key), whole[key], part.get(key), _one(truth, key), len(here))
        for key in whole
        if np.isfinite(whole[key]).any()
    ]


Key = tuple[str, Metric]


def _estimate(
    key: Key, before: float, drawn: Floats, part: Floats | None, found: float, n: int
) -> Estimate:
    low, high = np.nanquantile(drawn, (0.025, 0.975))
    held, foretold = None, np.nan
    if part is not None and np.isfinite(found) and np.isfinite(part).any():
        foretold = float(np.nanmean(part))
        below, above = np.nanquantile(part, (0.025, 0.975))
        held = bool(below <= found <= above)
    value = float(np.nanmean(drawn))
    return Estimate(*key, before, value, float(low), float(high), n, foretold, found, held)


def _foretold(table: pd.DataFrame, findings: Sequence[str], seed: int) -> dict[Key, Floats]:
    """Metric → its value (DRAWS,) under outcomes drawn from the probabilities."""
    rng = np.random.default_rng(seed)
    found: dict[Key, list[float]] = {}
    if table.empty:
        return {}
    for _ in range(DRAWS):
        chance = rng.random(len(table))
        labels = {
            f"label.{name}": (chance < table[f"probability.{name}"]).astype(float)
            for name in findings
        }
        for key, value in performance(table.assign(**labels), findings).items():
            if key[1] in ESTIMATED:
                found.setdefault(key, []).append(float(value[0]))
    return {key: np.array(values) for key, values in found.items()}


def _one(values: dict[Key, Floats], key: Key) -> float:
    return float(values[key][0]) if key in values else np.nan
