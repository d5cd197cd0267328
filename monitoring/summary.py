"""Summary page: the verdict and every figure behind it, one HTML file that loads nothing else."""

from collections.abc import Iterator
from html import escape

from cxr_mm.contracts.prediction import NOTICE
from monitoring.judge import Judgement
from monitoring.page import Page
from monitoring.reasons import WARN_FACTOR, Limits, describe, title_of
from monitoring.summary_parts import (
    estimates_part,
    groups_part,
    metrics_table,
    scored,
    service_part,
    since_part,
    table,
)

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
    judgement = page.judgement
    verdict = judgement.verdict
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
    if judgement.checks:
        parts += [_reasons(judgement), *_concept(judgement), groups_part(page.groups)]
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
    if page.judgement.films:
        rows.append(("Film gate", page.judgement.films.text))
    if rates:
        shared = ", ".join(f"{family} {100 * rate:.1f} %" for family, rate in rates.items())
        rows.append(("Undrifted windows that alarm, by design", shared))
    return table((), ((escape(k), escape(v)) for k, v in rows))


def _reasons(judgement: Judgement) -> str:
    reasons = judgement.verdict.reasons
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


def _concept(judgement: Judgement) -> Iterator[str]:
    rate = judgement.rates.get("concept", 0.0)
    for result in judgement.concept:
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
