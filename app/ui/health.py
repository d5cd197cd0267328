"""Health tab: the latest verdict of monitoring, the figures of evaluate and the model card."""

from functools import partial
from typing import Any

import gradio as gr
from markupsafe import Markup

from app.monitoring_reports import EVIDENTLY_FILE, Evaluation, Report, address, evaluation, health
from app.service import InferenceService
from app.ui import answer
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, plural
from cxr_mm.evaluation.report.text import headline, with_interval
from cxr_mm.explain.html import NAMES
from cxr_mm.explain.overlay import data_uri

WORDS = {"ok": "OK", "warn": "Warning", "alarm": "Alarm", "too_small": "Too few studies to judge"}
REMEDIES = {
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
    gr.HTML(answer.piece("caveats", service.task))
    quiet = {"show_progress": "hidden", "api_visibility": "private"}
    folds = [plots_fold, card_fold, checks_fold, columns_fold]
    outputs = [verdict, figures, card, checks, columns, *folds]
    tab.select(partial(on_open, service, name or service.task.name), None, outputs, **quiet)
    plots_fold.expand(partial(on_plots, service), None, plots, **quiet)


def on_open(service: InferenceService, name: str) -> tuple[Any, ...]:
    """Verdict, figures, card and the two frames, then which of the four folds there is."""
    found = health(service.task.name, service.bundle.digest)
    report, measured = found.report, found.evaluation
    reported, evaluated = isinstance(report, Report), isinstance(measured, Evaluation)
    served = isinstance(report, Report) and (report.folder / EVIDENTLY_FILE).is_file()
    return (
        verdict_box(report),
        figures_table(service.task, measured),
        measured.card if isinstance(measured, Evaluation) else "",
        frame(address(name, "summary"), "Every check behind the verdict") if reported else "",
        frame(address(name, "evidently"), "Evidently's report") if served else "",
        gr.update(visible=evaluated),
        gr.update(visible=evaluated),
        gr.update(visible=reported),
        gr.update(visible=served),
    )


def on_plots(service: InferenceService) -> str:
    """The plots of the evaluation, each with what it shows."""
    found = evaluation(service.task.name, service.bundle.digest)
    if isinstance(found, StageError):
        return ""
    titles = [PLOTS.get(path.stem, path.stem.replace("_", " ")) for path in found.plots]
    sources = [data_uri(path.read_bytes()) for path in found.plots]
    return Markup().join(map(partial(answer.piece, "plot"), sources, titles))


def verdict_box(report: Report | StageError) -> Markup:
    """The verdict as a word and a colour, what moved, heaviest first, and what to do."""
    title = "Drift since training"
    if isinstance(report, StageError):
        return answer.piece("heading", title) + answer.quiet(str(report))
    return answer.piece("verdict", title, WORDS, report, REMEDIES[report.verdict.status])


def figures_table(task: Task, found: Evaluation | StageError) -> Markup:
    """AUC, sensitivity and specificity with intervals, for every subset of inputs."""
    title = "How well it answers held-out studies"
    if isinstance(found, StageError):
        return answer.piece("heading", title) + answer.quiet(str(found))
    metrics = found.metrics
    mean = "Mean over findings. " if len(task.findings) > 1 else ""
    made_up = "Made-up studies. " if task.synthetic else ""
    about = (
        f"{made_up}{mean}{plural(metrics['n_studies'], 'study')} of "
        f"{plural(metrics['n_patients'], 'patient')}; "
        "brackets hold 95 % intervals over patients"
    )
    rows = [_row(subset, figures) for subset, figures in metrics["subsets"].items()]
    return answer.piece("performance", title, about, ["Inputs", "Studies", *METRICS.values()], rows)


def _row(subset: str, figures: dict[str, Any]) -> list[str]:
    names = [NAMES[m] for m in MODALITIES if m in subset.split("+")]
    title = "Whatever each study has" if subset == AVAILABLE else " + ".join(names)
    found = headline(figures)
    return [title, str(figures["n"]), *(with_interval(found[metric], ".2f") for metric in METRICS)]


def frame(source: str, title: str) -> Markup:
    """A report that runs apart from this page, fetched when it comes into sight."""
    return answer.piece("frame", source, title)
