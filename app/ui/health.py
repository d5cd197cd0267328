"""Health tab: the latest verdict of monitoring, the figures of evaluate and the model card."""

import base64
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from app.monitoring_reports import EVIDENTLY_FILE, Evaluation, Report, address, evaluation, health
from app.service import InferenceService
from app.ui import answer
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES
from cxr_mm.evaluation.report.text import headline, with_interval
from cxr_mm.evaluation.subsets import AVAILABLE
from cxr_mm.explain.html import NAMES

WORDS = {"ok": "OK", "warn": "Warning", "alarm": "Alarm", "too_small": "Too few studies to judge"}
TO_DO = {
    "ok": "Nothing to do. It says that studies look as they did, not that answers are right.",
    "warn": "Look at what moved first, collect outcomes of these studies, and report again soon.",
    "alarm": "Rely on no answer before what moved first is explained: has a device, a form or a "
    "referral changed? Collect outcomes, then measure the model anew (cxr-mm evaluate-on) and "
    "recalibrate or train it again.",
    "too_small": "Wait for more studies, or report on a longer window.",
}
PLOTS = {
    "confusion": "Confusion matrix of each finding",
    "precision_recall": "Precision against recall of each finding",
    "reliability": "Observed against predicted share of each finding: calibration",
    "roc": "ROC curve of each finding",
    "roc_subsets": "ROC curves for every subset of inputs",
    "subgroups": "Figures of groups of patients",
}
METRICS = {"auc": "AUC", "sensitivity": "Sensitivity", "specificity": "Specificity"}

CSS = """
.verdict{border-left:8px solid #57606a;border-radius:4px;padding:8px 14px;margin:0 0 8px;
  background:var(--background-fill-secondary);color:var(--body-text-color)}
.verdict[data-status=ok]{border-color:#1a7f37}
.verdict[data-status=warn]{border-color:#c65d00}
.verdict[data-status=alarm]{border-color:#b3261e}
.verdict p{margin:4px 0}
.verdict .word{font-size:1.15rem;font-weight:700}
.health h3{margin:10px 0 2px;font-size:1rem}
.health ol,.health ul{margin:4px 0 10px;padding-left:24px}
.health ol li{list-style:decimal}
.health ul li{list-style:disc}
.health .wide,.health.card table{display:block;overflow-x:auto}
.health table{border:0 !important;border-collapse:collapse;font-variant-numeric:tabular-nums}
.health tr,.health th,.health td{border:0 !important}
.health th,.health td{text-align:left;padding:3px 16px 3px 0 !important;
  border-bottom:1px solid var(--border-color-primary) !important}
.health th,.health td{white-space:nowrap}
.health.card td:first-child{white-space:normal;word-break:normal;min-width:8em}
.health figure{margin:0 0 16px}
.health img{max-width:100%;height:auto;background:#fff}
.health iframe{width:100%;height:70vh;border:1px solid var(--border-color-primary);background:#fff}
"""


def build(service: InferenceService, tab: gr.Tab, name: str | None = None) -> None:
    """Fill the tab that encloses the call; all of it is read anew whenever the tab is chosen.

    Args:
        service: whose model it is.
        tab: the enclosing tab.
        name: by which `report_routes` knows the bundle; default: the task's.
    """
    verdict = gr.HTML(elem_classes="health")
    figures = gr.HTML(elem_classes="health")
    with gr.Accordion("Plots", open=False, visible=False) as plots_fold:
        plots = gr.HTML(elem_classes="health")
    with gr.Accordion("Model card", open=False, visible=False) as card_fold:
        card = gr.Markdown(sanitize_html=True, elem_classes="health card")
    with gr.Accordion("Every check behind the verdict", open=False, visible=False) as checks_fold:
        checks = gr.HTML(elem_classes="health")
    with gr.Accordion("Column by column (Evidently)", open=False, visible=False) as columns_fold:
        columns = gr.HTML(elem_classes="health")
    gr.HTML(f'<h2 class="step">Limitations</h2>{answer.caveats(service.task)}')
    muted = {"show_progress": "hidden", "api_visibility": "private"}
    folds = [plots_fold, card_fold, checks_fold, columns_fold]
    session = [verdict, figures, card, checks, columns]
    tab.select(
        partial(on_open, service, name or service.task.name), None, [*session, *folds], **muted
    )
    plots_fold.expand(partial(on_plots, service), None, plots, **muted)


def on_open(service: InferenceService, name: str) -> tuple[Any, ...]:
    """Verdict, figures, card and the two frames, then which of the four folds there is."""
    found = health(service.task.name, service.bundle.digest)
    report, measured = found.report, found.evaluation
    message = isinstance(report, Report)
    served = isinstance(report, Report) and (report.folder / EVIDENTLY_FILE).is_file()
    return (
        verdict_box(report),
        figures_table(service.task, measured),
        measured.card if isinstance(measured, Evaluation) else "",
        frame(address(name, "summary"), "Every check behind the verdict") if message else "",
        frame(address(name, "evidently"), "Evidently's report") if served else "",
        gr.update(visible=isinstance(measured, Evaluation)),
        gr.update(visible=isinstance(measured, Evaluation)),
        gr.update(visible=message),
        gr.update(visible=served),
    )


def on_plots(service: InferenceService) -> str:
    """The plots of the evaluation, each with what it shows."""
    found = evaluation(service.task.name, service.bundle.digest)
    return "" if isinstance(found, StageError) else "".join(_plot(path) for path in found.plots)


def verdict_box(report: Report | StageError) -> str:
    """The verdict as a word and a colour, what moved, heaviest first, and what to do."""
    heading = '<h2 class="step">Drift since training</h2>'
    if isinstance(report, StageError):
        return f'{heading}<p class="quiet">{escape(str(report))}</p>'
    result = report.verdict
    box = (
        f'<div class="verdict" data-status="{result.status}">'
        f'<p class="word">{WORDS[result.status]}</p>'
        f"<p>{escape(result.headline)}</p>"
        f'<p class="quiet">Report of {report.made:%Y-%m-%d %H:%M} UTC, on predictions from '
        f"{_moment(result.first)} to {_moment(result.last)}</p></div>"
    )
    reasons = "".join(
        f"<li><strong>{WORDS[reason.level]}</strong>, {reason.drift} drift: "
        f"{escape(reason.text)}</li>"
        for reason in result.reasons
    )
    moved = f"<h3>What moved, heaviest first</h3><ol>{reasons}</ol>" if reasons else ""
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    to_know = f"<h3>To know</h3><ul>{notes}</ul>" if notes else ""
    return (
        f"{heading}{box}<p><strong>What to do:</strong> {TO_DO[result.status]}</p>{moved}{to_know}"
    )


def _moment(text: str | None) -> str:
    """An ISO 8601 time to the minute."""
    return escape(text[:16].replace("T", " ")) if text else "the beginning"


def figures_table(task: Task, found: Evaluation | StageError) -> str:
    """AUC, sensitivity and specificity with intervals, for every subset of inputs."""
    heading = '<h2 class="step">How well it answers held-out studies</h2>'
    if isinstance(found, StageError):
        return f'{heading}<p class="quiet">{escape(str(found))}</p>'
    metrics = found.metrics
    mean = "Mean over findings. " if len(task.findings) > 1 else ""
    made_up = "Made-up studies. " if task.synthetic else ""
    what = (
        f"{made_up}{mean}{metrics['n_studies']} studies of {metrics['n_patients']} patients; "
        "brackets hold 95 % intervals over patients"
    )
    heads = "".join(
        f'<th scope="col">{h}</th>' for h in ("StudySession", "Studies", *METRICS.values())
    )
    rows = "".join(_row(subset, figures) for subset, figures in metrics["subsets"].items())
    return (
        f'{heading}<p class="quiet" id="figures-what">{what}</p>'
        '<div class="wide" tabindex="0"><table aria-describedby="figures-what">'
        f"<thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(subset: str, figures: dict[str, Any]) -> str:
    session = [NAMES[m] for m in MODALITIES if m in subset.split("+")]
    title = "Whatever each study has" if subset == AVAILABLE else " + ".join(session)
    message = headline(figures)
    cells = [str(figures["n"]), *(with_interval(message[metric], ".2f") for metric in METRICS)]
    return f'<tr><th scope="row">{title}</th>{"".join(f"<td>{c}</td>" for c in cells)}</tr>'


def _plot(path: Path) -> str:
    title = PLOTS.get(path.stem, path.stem.replace("_", " "))
    image = base64.b64encode(path.read_bytes()).decode("ascii")
    return (
        f'<figure><figcaption>{escape(title)}</figcaption><img alt="{escape(title)}" '
        f'src="data:image/png;base64,{image}"></figure>'
    )


def frame(source: str, title: str) -> str:
    """A report that runs apart from this page, fetched when it comes into sight."""
    return (
        f'<iframe src="{escape(source)}" title="{escape(title)}" sandbox="allow-scripts" '
        'loading="lazy" referrerpolicy="no-referrer"></iframe>'
    )
