"""Worklist tab: many images at once, answered in the order in which to look at them."""

import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from app import archive
from app.service import InferenceService
from app.ui import answer
from app.ui.queues import KEPT_SECONDS, READING, WORKLIST
from app.worklist import LONGEST, Row, Wanted, Worklist, chosen, orders, predicted, written
from cxr_mm.core.errors import CancelledError, InputError
from cxr_mm.core.prediction import FindingPrediction
from cxr_mm.core.progress import Progress
from cxr_mm.core.task import Task
from cxr_mm.data.studies import BadRow
from cxr_mm.explain.html import NAMES, answer_in_words, percent
from cxr_mm.explain.overlay import data_uri

PAGE = 50
"""Studies on one page of the list."""
ONLY = [("positive", "positive"), ("uncertain", "uncertain"), ("with warnings", "warned")]
STOPPED = "Stopped. Nothing of this list was kept."

CSS = f"""
.worklist{{overflow-x:auto;border:1px solid var(--border-color-primary);border-radius:6px}}
.worklist table{{width:100%;border:0 !important;border-collapse:collapse;margin:0;
  font-variant-numeric:tabular-nums}}
.worklist caption{{text-align:left;padding:6px 10px;color:var(--body-text-color);opacity:.85}}
.worklist th,.worklist td{{border:0;border-top:1px solid var(--border-color-primary);
  padding:5px 10px;text-align:left;vertical-align:top;color:var(--body-text-color)}}
.worklist thead th{{background:var(--background-fill-secondary)}}
.worklist tbody th{{font-weight:550;overflow-wrap:anywhere;min-width:8em}}
.worklist td:first-child{{width:{LONGEST + 20}px}}
.worklist img{{display:block;max-width:none;margin:0;border-radius:3px}}
.worklist ul{{margin:0;padding-left:16px;min-width:14em;font-size:.88em}}
.worklist li{{list-style:disc}}
.worklist .yes{{border-left:4px solid #c65d00;font-weight:650}}
.worklist .unsure{{border-left:4px dashed #6b7280}}
.undone ul{{max-height:260px;overflow-y:auto;margin:4px 0 0;padding-left:20px}}
.undone li{{list-style:disc;overflow-wrap:anywhere}}
"""


def build(service: InferenceService) -> None:
    """The tab's contents, inside a Blocks."""
    state = gr.State(None, time_to_live=KEPT_SECONDS)
    flag = gr.State(None)
    given = _inputs()
    with gr.Row():
        start = gr.Button("Predict all", variant="primary", scale=3)
        stop = gr.Button("Stop", variant="stop", interactive=False, min_width=90)
    status = gr.HTML()
    session = gr.Column(visible=False, elem_classes="part")
    with session:
        wanted, part, download, table = _list(service.task)
    undone = gr.HTML()
    buttons = [start, stop]
    lists = [state, status, session, undone, part, download, table]
    begun = start.click(on_start, None, [flag, *buttons], **READING)
    answered = begun.then(
        partial(on_predict, service),
        [flag, *given, *wanted],
        lists,
        show_progress_on=status,
        **WORKLIST,
    )
    answered.then(on_end, None, buttons, **READING)
    stop.click(on_stop, flag, [status, *buttons], cancels=[begun, answered], **READING)
    gr.on(
        [control.change for control in wanted],
        partial(on_choose, service),
        [state, *wanted],
        [part, download, table],
        show_progress="minimal",
        **READING,
    )
    part.input(partial(on_part, service), [state, *wanted, part], table, **READING)


def _inputs() -> list[Any]:
    with gr.Row(equal_height=True):
        # No list of file types: DICOM files often have no suffix. The content decides.
        images = gr.File(
            label="Images: PNG, JPEG or DICOM, or zip files of these",
            file_count="multiple",
            height=190,
            scale=3,
        )
        table = gr.File(
            label="CSV with the clinical features and notes (optional)",
            file_types=[".csv"],
            height=190,
            scale=2,
        )
    return [images, table]


def _list(task: Task) -> tuple[list[Any], Any, Any, Any]:
    """Controls that choose, the part of the list, the download and the table."""
    titles = orders(task)
    with gr.Row(equal_height=True):
        finding = gr.Dropdown(
            titles, value=titles[0][1], label="Most suspicious for", filterable=False, min_width=200
        )
        only = gr.CheckboxGroup(ONLY, label="Only studies that are", min_width=240)
        text = gr.Textbox(label="Study id holds", max_lines=1, min_width=160)
    with gr.Row(equal_height=True):
        part = gr.Dropdown([], label="Part of the list", filterable=False, min_width=160)
        download = gr.DownloadButton("Download as CSV", min_width=160)
    return [finding, only, text], part, download, gr.HTML()


def on_start() -> tuple[Any, ...]:
    """A list is begun: it gets a flag by which it can be stopped."""
    return threading.Event(), gr.update(interactive=False), gr.update(interactive=True)


def on_end() -> tuple[Any, ...]:
    """Nothing is running any more."""
    return gr.update(interactive=True), gr.update(interactive=False)


def on_stop(flag: threading.Event | None) -> tuple[Any, ...]:
    """Stop after the batch that the model works on."""
    if flag:
        flag.set()
    return answer.fault(STOPPED), *on_end()


def on_predict(
    service: InferenceService,
    flag: threading.Event,
    images: Sequence[str] | None,
    table: str | None,
    finding: str,
    only: Sequence[str],
    text: str | None,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio is asked for one
) -> tuple[Any, ...]:
    """Answer what was handed in; a fault takes any earlier list away."""
    on_progress = Progress(
        callback=lambda done, total: progress((done, total), desc="Studies"), cancelled=flag.is_set
    )
    found, fault = None, ""
    try:
        with archive.opened(map(Path, [*(images or []), *([table] if table else [])])) as upload:
            found = predicted(service, upload, on_progress)
    except CancelledError:
        fault = STOPPED
    except InputError as error:
        fault = str(error)
    status = summary(found) if found else answer.fault(fault)
    listed = gr.update(visible=bool(found and found.rows))
    undone = bad(found.bad) if found else ""
    return found, status, listed, undone, *on_choose(service, found, finding, only, text)


def on_choose(
    service: InferenceService,
    found: Worklist | None,
    finding: str,
    only: Sequence[str],
    text: str | None,
) -> tuple[Any, ...]:
    """Other studies are wanted, or in another order: the parts of the list, its CSV, its start."""
    if found is None:
        return gr.update(choices=[], value=None), None, ""
    rows = chosen(found, service.task, _wanted(finding, only, text))
    parts = [
        (f"{first + 1} to {min(first + PAGE, len(rows))}", first)
        for first in range(0, len(rows), PAGE)
    ]
    part = gr.update(choices=parts, value=0 if parts else None, visible=len(parts) > 1)
    return part, _csv(service, rows), drawn(service.task, rows, 0)


def on_part(
    service: InferenceService,
    found: Worklist | None,
    finding: str,
    only: Sequence[str],
    text: str | None,
    first: int | None,
) -> str:
    """Another part of the list is wanted."""
    if found is None:
        return ""
    rows = chosen(found, service.task, _wanted(finding, only, text))
    return drawn(service.task, rows, first or 0)


def _wanted(finding: str, only: Sequence[str], text: str | None) -> Wanted:
    return Wanted(finding, text=text or "", **dict.fromkeys(only, True))


def _csv(service: InferenceService, rows: Sequence[Row]) -> str:
    """A file in Gradio's own folder, which the page empties of what is old."""
    folder = Path(tempfile.mkdtemp(prefix="worklist-", dir=get_upload_folder()))
    path = folder / f"worklist-{service.task.name}.csv"
    path.write_text(
        written((row.prediction for row in rows), service.task), encoding="utf-8", newline=""
    )
    return str(path)


def summary(found: Worklist) -> str:
    """How many studies were answered, and what a person should know of the list as a whole."""
    lines = []
    if found.log_trouble:
        lines.append(found.log_trouble)
    if found.ignored:
        lines.append(f"Columns of the CSV that were not used: {', '.join(found.ignored)}.")
    result = (
        f"Studies answered: {len(found.rows)}. Files and rows that could not be: {len(found.bad)}."
    )
    notes = "".join(f'<p class="quiet">{escape(line)}</p>' for line in lines)
    return f'<div role="status"><p>{result}</p>{notes}</div>'


def bad(rows: Sequence[BadRow]) -> str:
    """What could not be answered, and why; empty where there is none."""
    if not rows:
        return ""
    items = "".join(
        f"<li><strong>{escape(row.study_id)}</strong>: {escape(row.reason)}</li>" for row in rows
    )
    return (
        f'<details class="undone" open><summary>Could not be answered: {len(rows)}</summary>'
        f"<ul>{items}</ul></details>"
    )


def drawn(task: Task, rows: Sequence[Row], first: int) -> str:
    """One part of a list as a table, from the row `first`."""
    if not rows:
        return '<p class="quiet">No study is left by these choices.</p>'
    part = rows[first : first + PAGE]
    heads = ["Image", "Study", *(f.title for f in task.findings), "Inputs", "Warnings"]
    head = "".join(f'<th scope="col">{escape(title)}</th>' for title in heads)
    body = "".join(_drawn_row(row) for row in part)
    return (
        '<div class="worklist" role="region" aria-label="Worklist" tabindex="0"><table><caption>'
        f"Studies {first + 1} to {first + len(part)} of {len(rows)}, most suspicious first"
        f"</caption><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _drawn_row(row: Row) -> str:
    result, image = row.prediction, "none"
    if row.thumbnail is not None:
        height, width = row.thumbnail.shape
        image = (
            f'<img src="{data_uri(row.thumbnail)}" width="{width}" height="{height}" '
            f'alt="Image of {escape(result.study_id)}">'
        )
    findings = "".join(_drawn_finding(found) for found in result.findings)
    warnings = "".join(f"<li>{escape(warning)}</li>" for warning in result.warnings)
    return (
        f'<tr><td>{image}</td><th scope="row">{escape(result.study_id)}</th>{findings}'
        f"<td>{', '.join(NAMES[m] for m in result.modalities)}</td>"
        f"<td>{f'<ul>{warnings}</ul>' if warnings else ''}</td></tr>"
    )


def _drawn_finding(found: FindingPrediction) -> str:
    unsure, yes = found.certainty == "uncertain", found.positive
    mark = "unsure" if unsure else "yes" if yes else ""
    word = answer_in_words(found)
    return f'<td class="{mark}">{percent(found.probability)}<br>{word}</td>'
