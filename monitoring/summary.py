"""Summary page: the verdict and every figure behind it, one HTML file that loads nothing else."""

from collections.abc import Iterable, Sequence
from html import escape

import pandas as pd

from cxr_mm.contracts.prediction import NOTICE
from monitoring.judge import Judgement
from monitoring.reasons import METRIC_NAMES, WARN_FACTOR, describe, level_of, title_of
from monitoring.reference import Reference

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


def summary_page(
    judgement: Judgement, reference: Reference, current: pd.DataFrame, has_report: bool
) -> str:
    """HTML of the whole summary; everything that came from data is escaped."""
    verdict = judgement.verdict
    title = f"{reference.task.title}: {verdict.status.replace('_', ' ')}"
    parts = [
        f'<div class="verdict" style="background:{COLOURS[verdict.status]}">'
        f"<h1>{escape(title)}</h1>{escape(verdict.headline)}</div>",
        f"<p class=small>{escape(NOTICE)}</p>",
        _facts(judgement, reference),
    ]
    if verdict.notes:
        items = "".join(f"<li>{escape(note)}</li>" for note in verdict.notes)
        parts.append(f"<h2>To know</h2><ul>{items}</ul>")
    if judgement.checks:
        parts += [_reasons(judgement), _concept(judgement), _checks(judgement, reference, current)]
    if has_report:
        parts.append('<p><a href="report.html">Evidently report, column by column</a></p>')
    body = "\n".join(parts)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{STYLE}</style></head>"
        f"<body>\n{body}\n</body></html>\n"
    )


def _facts(judgement: Judgement, reference: Reference) -> str:
    verdict = judgement.verdict
    rows = [
        ("Window", f"{verdict.first} to {verdict.last}"),
        ("Studies", f"{verdict.n}, of which {verdict.n_labelled} labelled"),
        ("Reference", f"{len(reference.table)} held-out studies"),
        ("Model", f"{reference.task.name}, digest {verdict.digest}"),
    ]
    if judgement.checks:
        rate = f"{judgement.rate:.1%}".replace("%", " %")
        rows.append(("False alarms by design", f"{rate} of undrifted windows, over all checks"))
    return _table((), ((escape(k), escape(v)) for k, v in rows))


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
    return "<h2>Reasons</h2>" + _table(("", "Kind", "What moved", "Score", "Limit"), rows)


def _concept(judgement: Judgement) -> str:
    if judgement.concept is None:
        return ""
    alarm = judgement.concept.limit(judgement.rate)
    warn = judgement.concept.limit(WARN_FACTOR * judgement.rate)
    rows = (
        (
            escape(m.finding),
            METRIC_NAMES[m.metric],
            f"{m.reference:.3f}",
            f"{m.current:.3f}",
            f"{m.low:.3f} to {m.high:.3f}",
            str(m.n),
            _score(m.score, warn, alarm),
        )
        for m in judgement.concept.metrics
    )
    head = ("Finding", "Metric", "Reference", "Window", "95 % without drift", "Labelled", "Score")
    return f"<h2>Performance (limit {alarm:.1f})</h2>" + _table(head, rows)


def _checks(judgement: Judgement, reference: Reference, current: pd.DataFrame) -> str:
    alarm = reference.thresholds.limit(len(current), judgement.rate)
    warn = reference.thresholds.limit(len(current), WARN_FACTOR * judgement.rate)
    rows = (
        (
            escape(title_of(result)),
            escape(describe(result, reference.table, current)),
            _score(result.score, warn, alarm),
        )
        for result in judgement.checks
    )
    head = ("Check", "Reference → window", "Score")
    return f"<h2>All data checks (limit {alarm:.1f})</h2>" + _table(head, rows)


def _score(score: float, warn: float, alarm: float) -> str:
    return f'<span class="{level_of(score, warn, alarm) or "ok"}">{score:.1f}</span>'


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>" if top else f"<table>{body}</table>"
