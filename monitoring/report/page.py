"""Page: every figure of a window, as plain values and as one HTML file that loads nothing else."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import pandas as pd
from markupsafe import Markup

from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.task import Task
from cxr_mm.core.templates import render
from cxr_mm.core.verdict import Verdict
from monitoring.concept_drift import Estimate, estimate
from monitoring.diagnostics import ChangePoint, GroupResult, Service, detect, score_groups
from monitoring.reference import Reference
from monitoring.shift_tests import REJECTED_TITLE
from monitoring.sites.comparison import Difference
from monitoring.sites.family import Family, title_of_site
from monitoring.verdict import (
    METRIC_NAMES,
    DriftReport,
    Limits,
    Window,
    describe,
    title_of,
)

COLOURS = {"ok": "#1a7f37", "warn": "#9a6700", "alarm": "#b42318", "too_small": "#57606a"}
MOST_DIFFERENCES = 100
"""Differences between sites that a page lists."""


@dataclass(frozen=True)
class Page:
    """Contents of a report.

    Args:
        report: drift report of the window.
        reference: what the window was compared with.
        window: the evaluated window.
        service: request counts and latency.
    """

    report: DriftReport
    reference: Reference
    window: Window
    service: Service

    @property
    def findings(self) -> Sequence[str]:
        """Names of the task's findings."""
        return self.reference.task.finding_names

    @cached_property
    def estimates(self) -> list[Estimate]:
        """Performance estimated from the probabilities, without labels."""
        if not self.report.checks:
            return []
        return estimate(self.window.table, self.reference.table, self.findings)

    @cached_property
    def groups(self) -> list[GroupResult]:
        """Performance by subgroup."""
        if not self.report.concept:
            return []
        return score_groups(self._labelled, self.reference)

    @cached_property
    def change_points(self) -> list[ChangePoint]:
        """Changes of the error rate that streaming detectors found."""
        if not self.report.concept:
            return []
        return detect(self._labelled, self.reference.table, self.findings)

    @property
    def _labelled(self) -> pd.DataFrame:
        longer, own = self.window.longer, self.window.labelled
        return longer if len(longer) > len(own) else own


def facts(page: Page) -> dict[str, object]:
    """Return the verdict and every figure behind it as plain values."""
    report = page.report
    return {
        **report.verdict.model_dump(mode="json"),
        "exit_code": report.verdict.exit_code,
        "false_alarm_rates": report.rates,
        "scores": {result.check.name: result.score for result in report.checks},
        "performance": {
            "longer" if result.longer else "window": [vars(metric) for metric in result.metrics]
            for result in report.concept
        },
        "subgroups": [asdict(group) for group in page.groups],
        "estimated": [asdict(one) for one in page.estimates],
        "change_points": [
            {**asdict(one), "when": one.when.isoformat() if one.when else None}
            for one in page.change_points
        ],
        "images": asdict(report.images) if report.images else None,
        "service": page.service.facts(),
    }


def sites_facts(
    pages: Mapping[str, Page], family: Family, differences: Sequence[Difference]
) -> dict[str, object]:
    """Return the verdict on all sites and every figure of each, and how they differ."""
    return {
        **family.verdict.model_dump(mode="json"),
        "exit_code": family.verdict.exit_code,
        "by_site": {site: facts(page) for site, page in pages.items()},
        "rate_of_site": family.rate,
        "differences": [asdict(one) for one in differences],
    }


def summary_page(page: Page) -> str:
    """Render the summary; the template escapes everything that comes from data."""
    return render("monitoring_summary.html", **_values(page), evidently=True)


def sites_page(
    pages: Mapping[str, Page], family: Family, differences: Sequence[Difference], task: Task
) -> str:
    """Render the summary of several sites: their verdicts, how they differ, and each by itself.

    Args:
        pages: site → its page.
        family: verdict on all of them.
        differences: between them.
        task: the question.
    """
    some = next(iter(pages.values()))
    sites = [
        {
            "title": title_of_site(site),
            "verdict": page.report.verdict,
            # Escaped when it was rendered.
            "body": Markup(render("monitoring_window.html", **_values(page), evidently=False)),
        }
        for site, page in pages.items()
    ]
    return render(
        "monitoring_sites.html",
        **_heading(family.verdict, task),
        sites=sites,
        rate=some.reference.params.false_alarm_rate,
        differences=differences,
        most=MOST_DIFFERENCES,
    )


def _heading(verdict: Verdict, task: Task) -> dict[str, Any]:
    return {
        "title": f"{task.title}: {verdict.status.replace('_', ' ')}",
        "colour": COLOURS[verdict.status],
        "verdict": verdict,
        "notice": NOTICE,
    }


def _values(page: Page) -> dict[str, Any]:
    """What the template of a window needs."""
    return {
        **_heading(page.report.verdict, page.reference.task),
        "page": page,
        "rejected_title": REJECTED_TITLE,
        "service": page.service,
        "names": METRIC_NAMES,
        **_drift(page),
    }


def _drift(page: Page) -> dict[str, Any]:
    """Checks and performance with their limits; no check where the window is too small."""
    report, reference, current = page.report, page.reference, page.window.table
    if report.limits is None:
        return {"checks": []}
    rate = report.rates.get("concept", 0.0)
    return {
        "limits": report.limits,
        "checks": [
            (title_of(result), describe(result, reference.table, current), result.score)
            for result in report.checks
        ],
        "performance": [(result, Limits(result.limit, rate)) for result in report.concept],
    }
