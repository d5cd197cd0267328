"""Dashboard: a year of windows by model and site on one page, from stored aggregates alone."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import LogError
from cxr_mm.core.files import write_text
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.templates import render
from cxr_mm.core.verdict import Status
from monitoring.report.page import COLOURS, MOST_DIFFERENCES
from monitoring.scheduler.windows import StoredAggregate
from monitoring.sites.aggregate import Aggregate, Sums
from monitoring.sites.comparison import add_up, compare
from monitoring.sites.family import title_of_site

DASHBOARD_FILE = "dashboard.html"
WIDTH, HEIGHT = 150.0, 40.0
"""Of a chart, in pixels."""
DRAWN = ("Studies", "Rejected images", "Mean probability", "AUC", "Latency, ms")
Point = tuple[datetime, float]


@dataclass
class SiteHistory:
    """Windows of one model at one site, added one by one.

    Args:
        statuses: end and status of each window.
        series: name of a chart → its points, in order of time.
        counts: how many windows have each status.
        studies, labelled: over all windows.
        sums: of every quantity, over all windows.
    """

    statuses: list[tuple[datetime, Status]] = field(default_factory=list)
    series: dict[str, list[Point]] = field(default_factory=lambda: {n: [] for n in DRAWN})
    counts: Counter[Status] = field(default_factory=Counter)
    studies: int = 0
    labelled: int = 0
    sums: dict[str, Sums] = field(default_factory=dict)

    def add(self, end: datetime, one: Aggregate) -> None:
        """Add the next window."""
        self.statuses.append((end, one.status))
        self.counts[one.status] += 1
        self.studies += one.studies
        self.labelled += one.labelled
        self.sums = add_up((self.sums, one.sums))
        for name, value in zip(DRAWN, _figures(one), strict=True):
            if value is not None:
                self.series[name].append((end, value))


def write_dashboard(aggregates: Iterable[StoredAggregate], task: str, file: Path) -> int:
    """Write the page; returns how many windows of a model and site it shows.

    Args:
        aggregates: in order of time.
        task: name of their task.
        file: HTML, written whole or not at all.

    Raises:
        LogError: there is no aggregate.
        StorageError: the file cannot be written.
    """
    models: dict[str, dict[str, SiteHistory]] = {}
    ends: set[datetime] = set()
    for one in aggregates:
        sites = models.setdefault(one.digest, {})
        sites.setdefault(one.site, SiteHistory()).add(one.window.until, one.content)
        ends.add(one.window.until)
    if not ends:
        raise LogError(
            "no window was stored in this time",
            field=task,
            remedy="Run python -m monitoring schedule or backfill",
        )
    span = min(ends), max(ends)
    text = render(
        "monitoring_dashboard.html",
        title=f"{task}: {span[0]:%Y-%m-%d} to {span[1]:%Y-%m-%d}",
        notice=NOTICE,
        colours=COLOURS,
        names=DRAWN,
        size=(WIDTH, HEIGHT),
        most=MOST_DIFFERENCES,
        models=[_model(digest, sites, span) for digest, sites in reversed(models.items())],
    )
    write_text(file, text)
    return sum(len(each.statuses) for sites in models.values() for each in sites.values())


def _model(
    digest: str, sites: dict[str, SiteHistory], span: tuple[datetime, datetime]
) -> dict[str, Any]:
    return {
        "digest": digest,
        "sites": [
            {
                "title": title_of_site(site),
                "history": history,
                "strip": [(_across(end, span), status) for end, status in history.statuses],
                "charts": [_chart(points, span) for points in history.series.values()],
            }
            for site, history in sorted(sites.items())
        ],
        "differences": compare({site: history.sums for site, history in sites.items()}),
    }


def _figures(one: Aggregate) -> tuple[float | None, ...]:
    """Values of the charts, in the order of DRAWN."""
    images = one.refused + one.predictions
    probabilities = [s.mean for title, s in one.sums.items() if title.endswith(": probability")]
    return (
        float(one.studies),
        one.refused / images if images else None,
        sum(probabilities) / len(probabilities) if probabilities else None,
        one.auc,
        one.slowest,
    )


def _chart(points: Sequence[Point], span: tuple[datetime, datetime]) -> dict[str, Any] | None:
    """Points as SVG has them, and lowest and highest value; None without any."""
    if not points:
        return None
    low, high = min(v for _, v in points), max(v for _, v in points)
    scale = HEIGHT / ((high - low) or 1.0)
    places = (f"{_across(end, span):.1f},{HEIGHT - scale * (v - low):.1f}" for end, v in points)
    return {"points": " ".join(places), "low": low, "high": high, "last": points[-1][1]}


def _across(moment: datetime, span: tuple[datetime, datetime]) -> float:
    whole = (span[1] - span[0]).total_seconds() or 1.0
    return WIDTH * (moment - span[0]).total_seconds() / whole
