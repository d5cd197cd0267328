"""Prevalence: whether the mean predicted probability of any finding has moved.

A change of prevalence moves many columns a little and the answers most of all, so that a test of
its own, one number a finding, sees it sooner than a test over all columns. Spreads are those of
windows drawn from the reference by patient; findings are corrected for by Bonferroni.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import norm

from monitoring.statistics import normal_score
from monitoring.windows import as_codes, draw_windows

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
    here, there = (t[columns].to_numpy(float) for t in (current, reference))
    patients = as_codes(reference["patient"].to_numpy(object))
    drawn = draw_windows(patients, len(here), DRAWS, np.random.default_rng(seed))
    inside = drawn @ there / drawn.sum(axis=1, keepdims=True)
    outside = (1 - drawn) @ there / (1 - drawn).sum(axis=1, keepdims=True)
    shrink = _shrinkage(len(here), len(there), float(drawn[0].sum()))
    spread = np.maximum(shrink * (inside - outside).std(axis=0), 1 / len(here) / 10)
    before, after = there.mean(axis=0), here.mean(axis=0)
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
