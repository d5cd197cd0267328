"""Aggregate: what is kept of a site in one window, so that a year needs no row of the log."""

from typing import NamedTuple

import numpy as np

from cxr_mm.core.types import Frozen
from cxr_mm.core.verdict import Status

AGGREGATES = "aggregates"
"""Field of verdict.json with the aggregate of each site."""


class Sums(NamedTuple):
    """What is known of one quantity at one site; adds up.

    Args:
        share: whether its values are 0 and 1 alone.
        studies: those that have a value.
        total, squares, cubes: sums of values, of their squares and of their cubes.
        patients: those with a value.
        of_totals, of_products, of_counts: sums over patients of total², total × studies, studies².
    """

    share: bool
    studies: float
    total: float
    squares: float
    cubes: float
    patients: float
    of_totals: float
    of_products: float
    of_counts: float

    def plus(self, other: "Sums") -> "Sums":
        """The sums of both."""
        return Sums(self.share, *(a + b for a, b in zip(self[1:], other[1:], strict=True)))

    @property
    def mean(self) -> float:
        """Mean over studies; at least one has a value."""
        return self.total / self.studies

    @property
    def variance(self) -> float:
        """Between studies."""
        return max(0.0, self.squares / self.studies - self.mean**2)

    @property
    def skewness(self) -> float:
        """Between studies; 0 where they are all alike."""
        third = self.cubes / self.studies - self.mean * (3 * self.variance + self.mean**2)
        return float(third / self.variance**1.5) if self.variance else 0.0

    @property
    def error(self) -> float:
        """Standard error of the mean over studies, patients drawn."""
        mean, n = self.mean, self.patients
        spread = self.of_totals - 2 * mean * self.of_products + mean**2 * self.of_counts
        return float(np.sqrt(max(0.0, spread) * n / (n - 1))) / self.studies


class Aggregate(Frozen):
    """One window of one site."""

    status: Status
    studies: int
    labelled: int
    predictions: int
    refused: int
    """Images that the input gate rejected."""
    bad_input: int
    failures: int
    slowest: float | None
    """95th percentile of latency in the slowest hour, milliseconds."""
    auc: float | None
    """Mean over findings, of the labelled studies."""
    sums: dict[str, Sums]
    """Of the compared studies: title of a quantity → its sums."""
