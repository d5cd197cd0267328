"""Worklist tab: many images at once, answered in the order in which to look at them."""

import tempfile
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from markupsafe import Markup

from app import archive
from app.service import InferenceService
from app.ui import answer
from app.ui.theme import KEPT_SECONDS, READING, WORKLIST
from app.worklist import Row, Worklist, chosen, orders, predicted
from cxr_mm.core.errors import CancelledError, InputError
from cxr_mm.core.prediction import FindingPrediction, percent
from cxr_mm.core.progress import Progress
from cxr_mm.core.task import Task
from cxr_mm.data.studies import BadRow
from cxr_mm.explain.html import NAMES
from cxr_mm.explain.overlay import data_uri
from cxr_mm.inference.worklist import Wanted, written

PAGE = 50
"""Studies on one page of the list."""
ONLY = [("positive", "positive"), ("uncertain", "uncertain"), ("with warnings", "warned")]
STOPPED = "Stopped. Nothing of this list was kept."


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
            elem_id="worklist-images",
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
    return part, _csv(service, rows), table_of(service.task, rows, 0)


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
    return table_of(service.task, rows, first or 0)


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


def summary(found: Worklist) -> Markup:
    """How many studies were answered, and what a person should know of the list as a whole."""
    lines = [found.log_trouble] if found.log_trouble else []
    if found.ignored:
        lines.append(f"Columns of the CSV that were not used: {', '.join(found.ignored)}.")
    return answer.piece("worklist_summary", len(found.rows), len(found.bad), lines)


def bad(rows: Sequence[BadRow]) -> Markup:
    """What could not be answered, and why; empty where there is none."""
    return answer.piece("bad_rows", rows)


def table_of(task: Task, rows: Sequence[Row], first: int) -> Markup:
    """One part of a list as a table, from the row `first`."""
    if not rows:
        return answer.quiet("No study is left by these choices.")
    part = [_cells(row) for row in rows[first : first + PAGE]]
    titles = [finding.title for finding in task.findings]
    return answer.piece("worklist", titles, part, first, len(rows))


def _cells(row: Row) -> dict[str, Any]:
    prediction = row.prediction
    image: dict[str, Any] = {"image": None}
    if row.thumbnail is not None:
        height, width = row.thumbnail.shape
        image = {"image": data_uri(row.thumbnail), "width": width, "height": height}
    return {
        "study_id": prediction.study_id,
        "findings": [_finding(found) for found in prediction.findings],
        "inputs": ", ".join(NAMES[m] for m in prediction.modalities),
        "warnings": prediction.warnings,
        **image,
    }


def _finding(found: FindingPrediction) -> tuple[str, str, str]:
    """Colour, probability and answer."""
    colour = "unsure" if found.certainty == "uncertain" else "yes" if found.positive else ""
    return colour, percent(found.probability), found.in_words
