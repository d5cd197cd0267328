"""Aggregate: what is kept of a site in one window, so that a year needs no row of the log."""

from cxr_mm.core.types import Frozen
from cxr_mm.core.verdict import Status
from monitoring.sites.comparison import Sums

AGGREGATES = "aggregates"
"""Field of verdict.json with the aggregate of each site."""


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
