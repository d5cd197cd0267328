"""Report on the page: the case on one sheet, with lines that the reader types in."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from app import show
from app.case_report import MOST_TYPED, case_report, write_case_report
from app.lanes import EXPLANATION
from app.reading import ReadingRoom, Shown
from cxr_mm.errors import InputError

LINES = ("Reader", "Case reference")


@dataclass(frozen=True)
class ReportPart:
    """The parts."""

    box: Any
    typed: list[Any]
    with_note: Any
    make: Any
    file: Any
    said: Any


def build(room: ReadingRoom) -> ReportPart:
    """Place the report where the page stands."""
    with gr.Accordion("Report of this case", open=False) as box:
        with gr.Row():
            typed = [
                gr.Textbox(label=f"{name} (optional)", max_length=MOST_TYPED, max_lines=1)
                for name in LINES
            ]
        with_note = gr.Checkbox(label="Print the note", visible=room.task.note is not None)
        make = gr.Button("Make the report", size="sm")
        file = gr.DownloadButton("Download (HTML, prints on one sheet)", visible=False)
        said = gr.HTML()
    return ReportPart(box, typed, with_note, make, file, said)


def makes(room: ReadingRoom, part: ReportPart, state: Any, why: Any) -> None:
    """Wire the button."""
    part.make.click(
        partial(on_make, room),
        [state, why.finding, why.method, part.with_note, *part.typed],
        [part.file, part.said],
        **EXPLANATION,
    )


def on_make(
    room: ReadingRoom,
    shown: Shown | None,
    finding: str,
    method: str,
    with_note: bool,
    *typed: str | None,
) -> tuple[Any, str]:
    """Write the report of the answer on show."""
    hidden = gr.update(value=None, visible=False)
    if shown is None:
        return hidden, show.fault("There is no answer to report. Predict first.")
    lines = {name: text or "" for name, text in zip(LINES, typed, strict=True)}
    try:
        page = case_report(room, shown, finding, method, lines, with_note)
    except InputError as error:
        return hidden, show.fault(str(error))
    path = write_case_report(page, Path(get_upload_folder()), room.task.name)
    return gr.update(value=str(path), visible=True), ""
