"""Summary page: the verdict and every figure behind it, one HTML file that loads nothing else."""

from collections.abc import Iterable, Iterator, Sequence
from html import escape

from cxr_mm.core.prediction import NOTICE
from monitoring.concept_drift import Estimate, MetricResult
from monitoring.diagnostics import ChangePoint, GroupResult, Service
from monitoring.report.contents import Page
from monitoring.verdict import (
    METRIC_NAMES,
    WARN_FACTOR,
    DriftReport,
    Limits,
    describe,
    level_of,
    title_of,
)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>" if top else f"<table>{body}</table>"


def scored(score: float, warn: float, alarm: float) -> str:
    """A score in the colour of its level."""
    return f'<span class="{level_of(score, warn, alarm) or "ok"}">{score:.1f}</span>'


def metrics_table(metrics: Sequence[MetricResult], warn: float, alarm: float) -> str:
    """Performance against the reference."""
    rows = (
        (
            escape(m.finding),
            METRIC_NAMES[m.metric],
            f"{m.reference:.3f}",
            f"{m.current:.3f}",
            f"{m.low:.3f} to {m.high:.3f}",
            str(m.n),
            scored(m.score, warn, alarm),
        )
        for m in metrics
    )
    head = ("Finding", "Metric", "Reference", "Window", "95 % without drift", "Labelled", "Score")
    return table(head, rows)


def groups_part(groups: Sequence[GroupResult]) -> str:
    """The most changed metric of each subgroup."""
    if not groups:
        return ""
    rows = (
        (
            escape(f"{group.characteristic}: {group.level}"),
            str(group.n),
            escape(f"{first.finding}, {METRIC_NAMES[first.metric]}"),
            f"{first.reference:.3f}",
            f"{first.current:.3f}",
            f"{first.low:.3f} to {first.high:.3f}",
            scored(first.score, group.limit, float("inf")),
        )
        for group in groups
        for first in group.metrics[:1]
    )
    head = ("Subgroup", "Labelled", "Most changed", "Reference", "Window", "95 % without", "Score")
    return "<h2>Subgroups</h2><p>They inform and raise no alarm.</p>" + table(head, rows)


def estimates_part(estimates: Sequence[Estimate]) -> str:
    """Performance estimated, and how well that held where labels came."""
    rows = (
        (
            escape(one.finding),
            METRIC_NAMES[one.metric],
            f"{one.reference:.3f}",
            f"{one.value:.3f} ({one.low:.3f} to {one.high:.3f})",
            "" if one.held is None else f"{one.estimated:.3f} estimated, {one.found:.3f} found",
            {None: "no label to tell by", True: "yes", False: "<b>no</b>"}[one.held],
        )
        for one in estimates
    )
    head = ("Finding", "Metric", "Reference", "Foretold", "Of the labelled studies", "Held")
    return (
        "<h2>Performance as the probabilities predict it</h2>"
        "<p>It holds only while the model is calibrated; of a changed concept it knows nothing.</p>"
        + table(head, rows)
    )


def since_part(found: Sequence[ChangePoint]) -> str:
    """Since when streaming detectors see more errors."""
    if not found:
        return ""
    rows = (
        (
            escape(one.finding),
            one.detector,
            "nothing"
            if one.when is None
            else f"since study {one.study} of {one.n}, {one.when.isoformat(timespec='minutes')}",
        )
        for one in found
    )
    return (
        "<h2>Streaming detectors on errors</h2><p>They say since when; they raise no alarm.</p>"
        + table(("Finding", "Detector", "A change of errors"), rows)
    )


def service_part(service: Service) -> str:
    """Volume, latency, errors and silences."""
    slowest = "not measured" if service.slowest is None else f"{service.slowest:.0f} ms"
    rows = (
        ("Predictions", f"{service.predictions:,}"),
        ("Images refused by the gate", str(service.refused)),
        ("Inputs that could not be read", str(service.bad_input)),
        ("Faults of the program", str(service.failures)),
        ("95th percentile of latency, slowest hour", slowest),
        ("Longest silence", f"{service.longest_gap:.0f} h"),
    )
    return "<h2>Service</h2>" + table((), rows)


COLOURS = {"ok": "#1a7f37", "warn": "#9a6700", "alarm": "#b42318", "too_small": "#57606a"}
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
       color: #1f2328; background: #fff }
.verdict { color: #fff; padding: .8rem 1.2rem; border-radius: 6px }
.verdict h1 { margin: 0; font-size: 1.3rem }
table { border-collapse: collapse; width: 100%; margin: .5rem 0 1.5rem }
th, td { text-align: left; padding: .3rem .6rem; border-bottom: 1px solid #d0d7de }
td.number { text-align: right; font-variant-numeric: tabular-nums }
.alarm { color: #b42318; font-weight: 600 } .warn { color: #9a6700; font-weight: 600 }
.small { color: #57606a; font-size: .9em; overflow-wrap: anywhere }
"""


def summary_page(page: Page) -> str:
    """HTML of the whole summary; everything that came from data is escaped."""
    report = page.judgement
    verdict = report.verdict
    title = f"{page.reference.task.title}: {verdict.status.replace('_', ' ')}"
    parts = [
        f'<div class="verdict" style="background:{COLOURS[verdict.status]}">'
        f"<h1>{escape(title)}</h1>{escape(verdict.headline)}</div>",
        f"<p class=small>{escape(NOTICE)}</p>",
        _facts(page),
    ]
    if verdict.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
        parts.append(f"<h2>To know</h2><ul>{items}</ul>")
    if report.checks:
        parts += [_reasons(report), *_concept(report), groups_part(page.groups)]
        parts += [estimates_part(page.estimates), since_part(page.since), _checks(page)]
        parts.append('<p><a href="report.html">Evidently report, column by column</a></p>')
    parts.append(service_part(page.service))
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def _facts(page: Page) -> str:
    verdict, rates = page.judgement.verdict, page.judgement.rates
    rows = [
        ("Window", f"{verdict.first} to {verdict.last}"),
        ("Studies", f"{verdict.n}, of which {verdict.n_labelled} labelled"),
        ("Reference", f"{len(page.reference.table)} held-out studies"),
        ("Model", f"{page.reference.task.name}, digest {verdict.digest}"),
    ]
    if page.judgement.images:
        rows.append(("Input gate", page.judgement.images.text))
    if rates:
        shared = ", ".join(f"{family} {100 * rate:.1f} %" for family, rate in rates.items())
        rows.append(("Undrifted windows that alarm, by design", shared))
    return table((), ((escape(k), escape(v)) for k, v in rows))


def _reasons(report: DriftReport) -> str:
    reasons = report.verdict.reasons
    if not reasons:
        return "<h2>Reasons</h2><p>Nothing moved further than undrifted windows do.</p>"
    rows = (
        (
            f"<span class={r.level}>{r.level}</span>",
            escape(f"{r.drift} drift"),
            escape(r.text),
            f"{r.score:.1f}",
            f"{r.limit:.1f}",
        )
        for r in reasons
    )
    return "<h2>Reasons</h2>" + table(("", "Kind", "What moved", "Score", "Limit"), rows)


def _concept(report: DriftReport) -> Iterator[str]:
    rate = report.rates.get("concept", 0.0)
    for result in report.concept:
        head = "Performance, with the windows before" if result.longer else "Performance"
        alarm, warn = result.limit(rate), result.limit(WARN_FACTOR * rate)
        yield f"<h2>{head} (limit {alarm:.1f})</h2>" + metrics_table(result.metrics, warn, alarm)


def _checks(page: Page) -> str:
    reference, current = page.reference, page.window.table
    limits = Limits(reference.thresholds, len(current), page.judgement.rates["data"])
    rows = (
        (
            escape(title_of(result)),
            escape(describe(result, reference.table, current)),
            scored(result.score, limits.warn, limits.alarm),
        )
        for result in page.judgement.checks
    )
    head = ("Check", "Reference → window", "Score")
    return f"<h2>All data checks (limit {limits.alarm:.1f})</h2>" + table(head, rows)
