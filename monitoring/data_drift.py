"""Data drift: one score per check, and one threshold over all of them, learnt from reference.

A check is one statistic: the values of a column, its missing share, or one embedding as a whole.
Its score is the number of standard deviations by which the statistic exceeds its mean in undrifted
windows of that size. The largest score of a window is compared with the largest scores of undrifted
windows (Westfall and Young 1993), so the false-alarm rate holds over all checks
together, whatever their dependence.

Between two learnt window sizes everything is interpolated linearly in log(size); above the
largest the values of the largest are used, for the statistics are scaled so that their null
distribution hardly depends on size. A window below the smallest size is not tested.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.types import Frozen
from monitoring.statistics import (
    anderson_darling,
    as_codes,
    draw_windows,
    energy,
    exact_chi,
    learnt_limit,
)
from monitoring.table import WatchedColumn

Method = Literal["number", "category", "missing", "embedding"]
LARGEST_WINDOW = 4000
"""Rows of a window that are compared; of a larger one, as many drawn at random."""
LEAST_NULL: dict[Method, tuple[float, float]] = {
    "number": (0.9, 0.35),
    "category": (0.8, 0.6),
    "missing": (0.8, 0.6),
    "embedding": (1.0, 0.3),
}
"""Mean and standard deviation that each statistic has at least under no drift (its asymptotic
ones), for columns that hardly vary in the reference: one new value is no alarm, many are."""


@dataclass(frozen=True)
class Check:
    """One statistic over one or several columns of the table."""

    name: str
    method: Method
    columns: tuple[WatchedColumn, ...]


class WindowNull(Frozen):
    """Null distribution of the checks in windows of one size."""

    size: int
    mean: dict[str, float]
    spread: dict[str, float]
    largest: tuple[float, ...]
    """The largest score of each drawn window, ascending."""


class Thresholds(Frozen):
    """Null distributions by window size, ascending; none where the reference is too small."""

    windows: tuple[WindowNull, ...]
    patients: int
    """Patients of the reference."""

    @property
    def smallest(self) -> int:
        """Smallest window in studies that is tested; of a reference too small for any, no size."""
        return self.windows[0].size if self.windows else sys.maxsize

    def at(self, size: int) -> tuple[list[WindowNull], NDArray[np.float64]]:
        """Return the two neighbouring learnt sizes and their weights."""
        sizes = np.log([w.size for w in self.windows])
        position = float(np.interp(np.log(size), sizes, np.arange(len(sizes))))
        low = min(int(position), len(sizes) - 1)
        high = min(low + 1, len(sizes) - 1)
        return [self.windows[low], self.windows[high]], np.array(
            [1 - (position - low), position - low]
        )

    def limit(self, size: int, rate: float) -> float:
        """Score that an undrifted window of this size exceeds with a chance of `rate`."""
        nulls, weights = self.at(size)
        return float(
            weights @ [learnt_limit(np.array(n.largest), rate, self.patients) for n in nulls]
        )

    def null(self, size: int, check: str) -> tuple[float, float]:
        """Mean and standard deviation of a check's statistic in undrifted windows."""
        nulls, weights = self.at(size)
        mean = float(weights @ [n.mean[check] for n in nulls])
        return mean, float(weights @ [n.spread[check] for n in nulls])


@dataclass(frozen=True)
class CheckResult:
    """Statistic and score of one check in a window."""

    check: Check
    statistic: float
    score: float


def checks_of(columns: Sequence[WatchedColumn]) -> list[Check]:
    """Every check over these columns; the components of one embedding make one check."""
    checks: list[Check] = []
    for group in ("image_pc", "note_pc"):
        parts = tuple(c for c in columns if c.group == group)
        if parts:
            checks.append(Check(group, "embedding", parts))
    for column in columns:
        if column.group not in ("image_pc", "note_pc"):
            checks.append(Check(column.name, column.kind, (column,)))
        if column.watch_missing:
            checks.append(Check(f"{column.name}.missing", "missing", (column,)))
    return checks


def learn_thresholds(
    table: pd.DataFrame, checks: Sequence[Check], params: ReferenceParams
) -> Thresholds:
    """Learn the null distribution of every check from windows drawn by patient.

    Args:
        table: the reference (N rows).
        checks: from `checks_of`.
        params: window sizes, number of windows drawn per size, seed.
    """
    rng = np.random.default_rng(params.seed)
    patients = as_codes(table["patient"].to_numpy(object))
    return Thresholds(
        windows=tuple(
            _learn(table, checks, patients, size, params.resamples, rng)
            for size in sorted(set(params.window_sizes))
        ),
        patients=len(np.unique(patients)),
    )


def score_window(
    current: pd.DataFrame,
    reference: pd.DataFrame,
    checks: Sequence[Check],
    learnt: Thresholds,
    weights: NDArray[np.float64] | None = None,
) -> list[CheckResult]:
    """Score a window of at least the smallest learnt size; highest score first.

    Args:
        current: the window.
        reference: table to compare with.
        checks: from `checks_of`.
        learnt: from `learn_thresholds`.
        weights: (N,) of the reference's rows; default: one each.
    """
    if len(current) > LARGEST_WINDOW:
        current = current.sample(LARGEST_WINDOW, random_state=0)
    pooled = pd.concat([reference, current], ignore_index=True)
    present = (np.arange(len(pooled)) >= len(reference)).astype(float)[None]
    before = 1.0 - present
    if weights is not None:
        before[0, : len(reference)] = weights
    results = []
    for check in checks:
        statistic = _statistic(pooled, check, present, before)[0]
        mean, spread = learnt.null(len(current), check.name)
        results.append(CheckResult(check, float(statistic), float((statistic - mean) / spread)))
    return sorted(results, key=lambda r: -r.score)


def _learn(
    table: pd.DataFrame,
    checks: Sequence[Check],
    patients: NDArray[np.int64],
    size: int,
    draws: int,
    rng: np.random.Generator,
) -> WindowNull:
    current = draw_windows(patients, size, draws, rng)
    statistics = np.stack([_statistic(table, c, current, 1.0 - current) for c in checks], axis=1)
    least = np.array([LEAST_NULL[c.method] for c in checks])
    mean = np.maximum(statistics.mean(axis=0), least[:, 0])
    spread = np.maximum(statistics.std(axis=0), least[:, 1])
    names = [c.name for c in checks]
    return WindowNull(
        size=size,
        mean=dict(zip(names, mean.tolist(), strict=True)),
        spread=dict(zip(names, spread.tolist(), strict=True)),
        largest=tuple(np.sort(((statistics - mean) / spread).max(axis=1)).tolist()),
    )


def _statistic(
    pooled: pd.DataFrame,
    check: Check,
    current: NDArray[np.float64],
    reference: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Statistic of a check in each resample, (R,), over the pooled rows (n)."""
    columns = [pooled[column.name] for column in check.columns]
    present = np.logical_and.reduce([column.notna().to_numpy() for column in columns])
    if check.method == "missing":
        return exact_chi(present.astype(np.int64), current, reference)
    if not present.any():
        return np.zeros(len(current))
    current, reference = current[:, present], reference[:, present]
    if check.method == "category":
        return exact_chi(as_codes(columns[0].to_numpy(object)[present]), current, reference)
    points = np.stack([c.to_numpy(np.float64, na_value=np.nan)[present] for c in columns], axis=1)
    if check.method == "number":
        return anderson_darling(points[:, 0], current, reference)
    return energy(points, current, reference)
