"""Case report: one answered study as a self-contained HTML page that prints on one sheet of A4.

It names no one: the only identifiers on it are those that the reader has typed in.
"""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr
import numpy as np
from gradio.utils import get_upload_folder
from numpy.typing import NDArray

from app.service import InferenceService, StudySession
from app.ui import answer
from app.ui.queues import EXPLANATION
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import write_text
from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.types import Modality
from cxr_mm.data.studies import GENERATED_ID
from cxr_mm.explain.html import probability_bar, whole_page
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.overlay import data_uri, grey
from cxr_mm.imaging.geometry import thumbnail

LONGEST = 480
"""Longer side of each picture in pixels."""
MOST_TYPED = 80
"""Characters of a line that the reader types in."""

CSS = """
@page{size:A4;margin:10mm}
body{font-size:12px;line-height:1.33;max-width:190mm}
h1{font-size:1.05rem}
h2{font-size:1rem;margin:8px 0 4px;border-bottom:1px solid #d9dde3}
h3{font-size:.9rem;margin:6px 0 1px}
p{margin:3px 0}
.facts{display:grid;grid-template-columns:max-content 1fr;gap:0 14px;margin:6px 0}
.facts dt{color:#4a5260}
.facts dd{margin:0;overflow-wrap:anywhere}
.warn{border:1px solid #c65d00;border-radius:6px;padding:4px 10px;margin:6px 0}
.warn ul{margin:2px 0;padding-left:18px}
.two{display:grid;grid-template-columns:1fr 1fr;gap:4px 26px;align-items:start}
.two>:only-child{grid-column:1/-1}
.two.details{grid-template-columns:2fr 3fr}
.details .features th{width:66%}
.cxr-shares th,.cxr-shares td,.cxr-shares tr{padding:1px 0}
.cxr-finding{margin:0}
.images figure{margin:0;display:flex;flex-direction:column;min-height:0}
.images img{height:66mm;min-height:0;object-fit:contain;margin:0}
figcaption{color:#4a5260;text-align:center}
.chips{display:flex;flex-wrap:wrap;gap:6px}
.chip{border:1px solid #4a5260;border-radius:999px;padding:0 9px}
.chip.off{border-style:dashed;color:#4a5260}
.cxr-note{line-height:1.75;margin:0}
@media print{
  *{print-color-adjust:exact;-webkit-print-color-adjust:exact}
  /* The pictures get what the rest leaves of the sheet. */
  body{padding:0;height:276mm;display:flex;flex-direction:column}
  .images{flex:1 1 0;min-height:36mm;max-height:80mm;grid-template-rows:minmax(0,1fr);
    align-items:stretch}
  .images img{flex:1;height:0}
}
@media screen and (max-width:640px){.two,.two>:only-child{grid-column:1/-1}
.two.details{grid-template-columns:1fr}}
"""


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
    task, result = service.task, session.answer.prediction
    facts = _facts(session, typed or {})
    pictures = _pictures(service, session, finding, method) if task.has_image else ""
    title = next((f.title for f in task.findings if f.name == finding), finding)
    body = [
        answer.notices(task),
        facts,
        answer.used(task, result),
        answer.warnings(result, ""),
        f'<h2>Answer</h2><div class="two">{_findings(session)}</div>{answer.gate_warning(result)}',
        f"<h2>Why: {escape(title)}</h2>{pictures}",
        _details(service, session, finding, with_note),
    ]
    return whole_page(f"Case report: {task.title}", CSS, "".join(body))


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


def _facts(session: StudySession, typed: Mapping[str, str]) -> str:
    """What the report is of, by whom, when."""
    result, study = session.answer.prediction, session.study
    rows = [(_line(name, name), _line(name, text)) for name, text in typed.items() if text.strip()]
    if not study.study_id.startswith(GENERATED_ID):
        rows.append(("Study id", study.study_id))
    if study.image is not None:
        rows.append(("View position", study.view or "unknown"))
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    rows += [("Model", result.model), ("Digest", result.digest), ("Written", now)]
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in rows)
    return f'<dl class="facts">{items}</dl>'


def _line(name: str, text: str) -> str:
    line = " ".join(text.split())
    if len(line) > MOST_TYPED:
        raise InputError(
            f"this line has {len(line)} characters, and {MOST_TYPED} can be printed",
            field=name[:MOST_TYPED],
            remedy="Shorten it",
        )
    return line


def _findings(session: StudySession) -> str:
    result, point = session.answer.prediction, session.subject.bundle.operating_point
    return "".join(
        f"<div>{probability_bar(found, point(found.finding, result.modalities, session.reason))}"
        f"{_conformal(result, found)}</div>"
        for found in result.findings
    )


def _conformal(prediction: Prediction, found: FindingPrediction) -> str:
    """What is left once answers that can be ruled out are."""
    if found.certainty is None or prediction.coverage is None:
        return ""
    return (
        f'<p class="cxr-small">Conformal answer, {100 * prediction.coverage:.0f} % coverage: '
        f"<strong>{found.certainty}</strong></p>"
    )


def _pictures(service: InferenceService, session: StudySession, finding: str, method: str) -> str:
    """The image, and the image explained, side by side."""
    result = service.explained(session, finding, method)
    drawn = service.drawn(session, result)
    reading = f'<p class="quiet">{escape(service.caption(result))}</p>'
    if session.image is None or drawn is None:
        return reading
    image = _picture(grey(session.image, LONGEST), "The image as read")
    over = _picture(thumbnail(drawn, LONGEST), f"{METHODS[method].title} over the image")
    return f'<div class="two images">{image}{over}</div>{reading}'


def _picture(pixels: NDArray[np.uint8], title: str) -> str:
    return (
        f'<figure><img src="{data_uri(pixels)}" alt="{escape(title)}">'
        f"<figcaption>{escape(title)}</figcaption></figure>"
    )


def _details(
    service: InferenceService, session: StudySession, finding: str, with_note: bool
) -> str:
    """Shares of the inputs and, where it is wanted, the note; beside them the clinical features."""
    bars, words = service.details(session, finding)
    features = answer.part("Clinical features", bars, _faithfulness(service, "tabular"))
    note = answer.part("Note", words if with_note else "", _faithfulness(service, "note"))
    return (
        f'<div class="two details"><div><h3>Which input</h3>{answer.shares(session, finding)}{note}'
        f'</div><div class="features">{features}</div></div>'
    )


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
