"""Inbox tab: the live queue of a node beside the PACS, the most suspicious first."""

import shutil
import tempfile
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder
from markupsafe import Markup

from app.inbox import Inbox, InboxRow, InboxView, Wanted
from app.service import InferenceService
from app.ui import answer, study_form
from app.ui.theme import OPEN, READING
from cxr_mm.core.errors import CxrError
from cxr_mm.core.prediction import percent
from cxr_mm.data.studies import header_values

SECONDS = 5.0
"""Between two looks, as long as the page is open."""
STATES = [
    ("any", ""),
    ("waiting for an answer", "received"),
    ("answered", "answered"),
    ("not analysed", "not_analysed"),
    ("failed", "failed"),
]
WORDS = {"received": "waiting", "not_analysed": "not analysed"}
LAST = 24
"""Characters of a UID that are shown."""


def build(service: InferenceService, inbox: Inbox, tab: gr.Tab, entry: study_form.Entry) -> None:
    """Fill the tab that encloses the call.

    Args:
        service: whose task's rows are shown.
        inbox: the queue.
        tab: the enclosing tab.
        entry: the form that a row is opened in.
    """
    findings = [("any", ""), *((f.title, f.name) for f in service.task.findings)]
    with gr.Row(equal_height=True):
        state = gr.Dropdown(STATES, value="", label="State", filterable=False, min_width=160)
        finding = gr.Dropdown(
            findings, value="", label="Positive for", filterable=False, min_width=160
        )
        text = gr.Textbox(label="Sender, reason or UID holds", max_lines=1, min_width=160)
    with gr.Row(equal_height=True):
        row = gr.Dropdown([], label="Image", filterable=False, min_width=200, scale=3)
        opened = gr.Button("Open in the reading view", min_width=160)
    fault, listed = gr.HTML(), gr.HTML(elem_id="inbox")
    wanted = [state, finding, text]
    look = partial(on_look, service, inbox)
    quiet = {"show_progress": "hidden", **READING}
    outputs = [listed, row]
    gr.on([control.change for control in wanted], look, [*wanted, row], outputs, **quiet)
    timer = gr.Timer(SECONDS, active=False)
    timer.tick(look, [*wanted, row], outputs, **quiet)
    tab.select(lambda: gr.update(active=True), None, timer, **quiet)
    tab.select(look, [*wanted, row], outputs, **quiet)
    filled = opened.click(
        partial(on_open, service, inbox),
        row,
        [entry.image, *entry.ids, *entry.clinical, fault],
        **READING,
    )
    filled.success(None, fault, js=OPEN, api_visibility="private")


def on_look(
    service: InferenceService, inbox: Inbox, state: str, finding: str, text: str, row: int | None
) -> tuple[Any, Any]:
    """The queue as it is now, and the images that can be opened."""
    try:
        view = inbox.look(service.task.name, Wanted(state, finding, text or ""))
    except CxrError as error:
        return answer.fault(str(error)), gr.skip()
    choices = [(_title(each), each.number) for each in view.rows if each.has_image]
    known = row in {number for _, number in choices}
    return table_of(view), gr.update(choices=choices, value=row if known else None)


def on_open(service: InferenceService, inbox: Inbox, row: int | None) -> tuple[Any, ...]:
    """Fill the form with an image of the queue and what its header says, as the node did."""
    skipped = [gr.skip()] * (3 + len(service.task.clinical))
    if row is None:
        return *skipped, answer.fault("Choose an image first.")
    try:
        study_id, stored = inbox.image(row)
        offered = header_values(service.task, service.image(str(stored)).radiograph)
    except CxrError as error:
        return *skipped, answer.fault(str(error))
    # A copy in Gradio's own folder, which the page empties of what is old.
    path = Path(tempfile.mkdtemp(prefix="inbox-", dir=get_upload_folder())) / f"image-{row}.dcm"
    shutil.copyfile(stored, path)
    clinical = [offered.get(feature.name, "") for feature in service.task.clinical]
    return str(path), study_id, "", *clinical, ""


def table_of(view: InboxView) -> Markup:
    """Peers, throughput and rows."""
    peers = [
        (peer.name, peer.trouble, _age(peer.since, view.now) if peer.since else "")
        for peer in view.peers
    ]
    oldest = "" if view.oldest_seconds is None else _span(view.oldest_seconds)
    rows = [_cells(row, view.now) for row in view.rows]
    return answer.piece("inbox", peers, (view.waiting, oldest, view.last_hour), rows, view.number)


def _cells(row: InboxRow, now: datetime) -> dict[str, Any]:
    return {
        "number": row.number,
        "uid": f"…{row.uid[-LAST:]}" if len(row.uid) > LAST else row.uid,
        "peer": row.peer,
        "age": _age(row.received_at, now),
        "state": WORDS.get(row.state, row.state),
        "reason": row.reason,
        "findings": [_finding(found) for found in row.findings],
        "deliveries": ", ".join(f"{number} {state}" for state, number in row.deliveries.items()),
    }


def _finding(found: dict[str, Any]) -> tuple[str, str]:
    """Colour, and title with probability."""
    unsure = found["certainty"] == "uncertain"
    colour = "unsure" if unsure else "yes" if found["positive"] else ""
    return colour, f"{found['title']} {percent(found['probability'])}"


def _title(row: InboxRow) -> str:
    found = [f"{f['title']} {percent(f['probability'])}" for f in row.findings if f["positive"]]
    return f"{row.number}: {', '.join(found) or WORDS.get(row.state, row.state)}"


def _age(since: datetime, now: datetime) -> str:
    return _span((now - since).total_seconds())


def _span(seconds: float) -> str:
    """A time in the largest unit that gives a number of 1 or more."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"
