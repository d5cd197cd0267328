"""Summary page: the verdict and every figure behind it, one HTML file that loads nothing else."""

from typing import Any

from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.templates import render
from monitoring.report.contents import Page
from monitoring.verdict import METRIC_NAMES, WARN_FACTOR, Limits, describe, level_of, title_of

COLOURS = {"ok": "#1a7f37", "warn": "#9a6700", "alarm": "#b42318", "too_small": "#57606a"}


def summary_page(page: Page) -> str:
    """Render the summary; the template escapes everything that comes from data."""
    verdict = page.report.verdict
    return render(
        "monitoring_summary.html",
        page=page,
        title=f"{page.reference.task.title}: {verdict.status.replace('_', ' ')}",
        colour=COLOURS[verdict.status],
        verdict=verdict,
        notice=NOTICE,
        facts=_facts(page),
        service=page.service,
        names=METRIC_NAMES,
        level_of=level_of,
        **_drift(page),
    )


def _facts(page: Page) -> list[tuple[str, str]]:
    report, verdict = page.report, page.report.verdict
    rows = [
        ("Window", f"{verdict.first} to {verdict.last}"),
        ("Studies", f"{verdict.n}, of which {verdict.n_labelled} labelled"),
        ("Reference", f"{len(page.reference.table)} held-out studies"),
        ("Model", f"{page.reference.task.name}, digest {verdict.digest}"),
    ]
    if report.images:
        rows.append(("Input gate", report.images.text))
    if report.rates:
        rates = (f"{family} {100 * rate:.1f} %" for family, rate in report.rates.items())
        rows.append(("False-alarm rate by design", ", ".join(rates)))
    return rows


def _drift(page: Page) -> dict[str, Any]:
    """Checks and performance with their limits; no check where the window is too small."""
    report, reference, current = page.report, page.reference, page.window.table
    if not report.checks:
        return {"checks": []}
    rate = report.rates.get("concept", 0.0)
    return {
        "limits": Limits(reference.thresholds, len(current), report.rates["data"]),
        "checks": [
            (title_of(result), describe(result, reference.table, current), result.score)
            for result in report.checks
        ],
        "performance": [
            {
                "longer": result.longer,
                "metrics": result.metrics,
                "alarm": result.limit(rate),
                "warn": result.limit(WARN_FACTOR * rate),
            }
            for result in report.concept
        ],
    }
