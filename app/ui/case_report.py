"""Case report: one answered study as a self-contained HTML page that prints on one sheet of A4.

It names no one: the only identifiers on it are those that the reader has typed in.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from app.service import InferenceService, StudySession
from app.ui import answer
from app.ui.theme import EXPLANATION
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import write_text
from cxr_mm.core.prediction import NOTICE, SYNTHETIC
from cxr_mm.core.templates import render
from cxr_mm.core.types import Modality
from cxr_mm.data.studies import GENERATED_ID
from cxr_mm.explain.html import share_bars
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.overlay import data_uri
from cxr_mm.imaging.geometry import grey, thumbnail

LONGEST = 480
"""Longer side of each picture in pixels."""
MOST_TYPED = 80
"""Characters of a line that the reader types in."""


def case_report(
    service: InferenceService,
    session: StudySession,
    finding: str,
    method: str,
    typed: Mapping[str, str] | None = None,
    with_note: bool = False,
) -> str:
    """The whole page.

    Args:
        service: explains.
        session: what was answered.
        finding: the one that is explained; all are listed.
        method: how the image is explained.
        typed: lines that the reader wants printed, as `Reader` or `Case reference`; those without
            text are left out.
        with_note: whether to print the note, as the model read it.

    Raises:
        InputError: a typed line is too long, the task has no such finding, or there is no such
            method.
    """
    task, prediction = service.task, session.answer.prediction
    facts = _facts(session, typed or {})
    bars, words = service.details(session, finding)
    return render(
        "case_report.html",
        title=f"Case report: {task.title}",
        notice=NOTICE,
        synthetic=SYNTHETIC if task.synthetic else "",
        facts=facts,
        inputs=answer.inputs(task, prediction),
        prediction=prediction,
        findings=list(zip(prediction.findings, answer.bars(session), strict=True)),
        uncertain=answer.uncertainty(prediction),
        finding=next((f.title for f in task.findings if f.name == finding), finding),
        **_pictures(service, session, finding, method),
        shares=share_bars(session.explanations[finding]),
        words=words if with_note else "",
        words_method=_faithfulness(service, "note"),
        bars=bars,
        bars_method=_faithfulness(service, "tabular"),
    )


def write_case_report(html: str, folder: Path, task: str) -> Path:
    """Write the page whole or not at all; its path is returned.

    Each goes into a new folder below `folder`, so that no two of the same second share a file.

    Args:
        html: as `case_report` gives it.
        folder: made where it is not there.
        task: name of the task.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own = Path(tempfile.mkdtemp(dir=folder))
    path = own / f"cxr-mm-{task}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}.html"
    write_text(path, html)
    return path


def _facts(session: StudySession, typed: Mapping[str, str]) -> list[tuple[str, str]]:
    """What the report is of, by whom, when."""
    result, study = session.answer.prediction, session.study
    rows = [(_line(name, name), _line(name, text)) for name, text in typed.items() if text.strip()]
    if not study.study_id.startswith(GENERATED_ID):
        rows.append(("Study id", study.study_id))
    if study.image is not None:
        rows.append(("View position", study.view or "unknown"))
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return [*rows, ("Model", result.model), ("Digest", result.digest), ("Written", now)]


def _line(name: str, text: str) -> str:
    line = " ".join(text.split())
    if len(line) > MOST_TYPED:
        raise InputError(
            f"this line has {len(line)} characters, and {MOST_TYPED} can be printed",
            field=name[:MOST_TYPED],
            remedy="Shorten it",
        )
    return line


def _pictures(
    service: InferenceService, session: StudySession, finding: str, method: str
) -> dict[str, Any]:
    """The image, and the image explained, each an address and a title; and how to read them."""
    if not service.task.has_image:
        return {"pictures": [], "caption": ""}
    result = service.explained(session, finding, method)
    drawn, caption = service.drawn(session, result), service.caption(result)
    if session.image is None or drawn is None:
        return {"pictures": [], "caption": caption}
    image = data_uri(grey(session.image, LONGEST)), "The image as read"
    over = data_uri(thumbnail(drawn, LONGEST)), f"{METHODS[method].title} over the image"
    return {"pictures": [image, over], "caption": caption}


def _faithfulness(service: InferenceService, modality: Modality) -> str:
    name = service.usual(modality)
    return f"{METHODS[name].title}. {service.faithfulness_of(name)}"


LINES = ("Reader", "Case reference")


@dataclass(frozen=True)
class ReportPanel:
    """The parts."""

    box: Any
    typed: list[Any]
    with_note: Any
    make: Any
    file: Any
    status: Any


def build(service: InferenceService) -> ReportPanel:
    """Place the report where the page stands."""
    with gr.Accordion("Report of this case", open=False) as box:
        with gr.Row():
            typed = [
                gr.Textbox(label=f"{name} (optional)", max_length=MOST_TYPED, max_lines=1)
                for name in LINES
            ]
        with_note = gr.Checkbox(label="Print the note", visible=service.task.note is not None)
        make = gr.Button("Make the report", size="sm")
        file = gr.DownloadButton("Download (HTML, prints on one sheet)", visible=False)
        result = gr.HTML()
    return ReportPanel(box, typed, with_note, make, file, result)


def bind_events(service: InferenceService, part: ReportPanel, state: Any, reason: Any) -> None:
    """Wire the button."""
    part.make.click(
        partial(on_make, service),
        [state, reason.finding, reason.method, part.with_note, *part.typed],
        [part.file, part.status],
        **EXPLANATION,
    )


def on_make(
    service: InferenceService,
    session: StudySession | None,
    finding: str,
    method: str,
    with_note: bool,
    *typed: str | None,
) -> tuple[Any, str]:
    """Write the report of the answer on show."""
    hidden = gr.update(value=None, visible=False)
    if session is None:
        return hidden, answer.fault("There is no answer to report. Predict first.")
    lines = {name: text or "" for name, text in zip(LINES, typed, strict=True)}
    try:
        page = case_report(service, session, finding, method, lines, with_note)
    except InputError as error:
        return hidden, answer.fault(str(error))
    path = write_case_report(page, Path(get_upload_folder()), service.task.name)
    return gr.update(value=str(path), visible=True), ""
