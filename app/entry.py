"""Entry: film, clinical features and note of one study; faults stand by their field."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import gradio as gr

from app import show, viewer
from app.form import asks_view, clinical_fields, message, values_of, view_field
from app.kept_films import read_for
from app.lanes import KEPT_SECONDS, PREDICTION, READING
from app.reading import ReadingRoom, Shown
from app.style import FRESH
from cxr_mm.data.note import mask_note
from cxr_mm.errors import ClinicalError, InputError, NoteError, RadiographError

HISTORY = 12
"""Answered studies that a page remembers, the oldest forgotten first."""
IDENTIFIERS = "without names or other identifiers"


@dataclass(frozen=True)
class Entry:
    """The parts of the form.

    Args:
        entered: what `on_predict` takes, in its order.
        faults: of film, clinical features, note, and the rest.
    """

    film: Any
    viewer: viewer.Viewer
    clinical: list[Any]
    note: Any
    entered: list[Any]
    faults: list[Any]
    predict: Any


def build(room: ReadingRoom) -> Entry:
    """Place the form where the page stands, and wire what stays within it."""
    task = room.task
    place = ["part", "film", *(["asks-view"] if asks_view(task) else [])]
    with gr.Column(visible=task.has_image, elem_classes=place):
        gr.HTML('<h2 class="step">Film</h2>')
        # No list of file types: DICOM files often have no suffix. The content decides.
        film = gr.File(label="Radiograph: PNG, JPEG or DICOM", type="filepath", height=150)
        shown = viewer.build(KEPT_SECONDS)
        film_fault = gr.HTML(visible=False)
        view = view_field(task)
        view.visible = asks_view(task)
    with gr.Column(visible=bool(task.clinical), elem_classes="part"):
        gr.HTML('<h2 class="step">Clinical features</h2>')
        with gr.Row(elem_id="clinical"):
            clinical = clinical_fields(task)
        clinical_fault = gr.HTML(visible=False)
    with gr.Column(visible=task.note is not None, elem_classes="part"):
        gr.HTML('<h2 class="step">Note</h2>')
        note = gr.Textbox(label=f"Clinical note, {IDENTIFIERS}", lines=3, max_lines=8)
        note_fault = gr.HTML(visible=False)
    study_id = gr.Textbox(
        label="Study id (optional)",
        info="To add the outcome later; only a keyed hash of it is kept.",
        max_lines=1,
        visible=room.log is not None,
    )
    fault = gr.HTML(visible=False)
    predict = gr.Button("Predict", variant="primary", elem_id="predict")
    faults = [film_fault, clinical_fault, note_fault, fault]
    entry = Entry(
        film, shown, clinical, note, [film, note, view, study_id, *clinical], faults, predict
    )
    _events(room, entry)
    return entry


def _events(room: ReadingRoom, entry: Entry) -> None:
    film_fault, _, note_fault, _ = entry.faults
    entry.film.change(
        _for_visitor(partial(on_film, room)),
        entry.film,
        [*entry.viewer.outputs, film_fault],
        show_progress="minimal",
        **READING,
    )
    entry.viewer.fill.click(
        partial(viewer.filled, room.task), entry.viewer.kept, entry.clinical, **READING
    )
    if room.task.note is not None:
        entry.note.blur(
            partial(on_note, room), entry.note, note_fault, show_progress="hidden", **READING
        )


def predicts(room: ReadingRoom, entry: Entry, state: Any, history: Any, answer: Any) -> Any:
    """Wire the button: what it hands in, and `on_predict`'s answer; the event is returned."""
    return entry.predict.click(
        _for_visitor(partial(on_predict, room)),
        [history, *entry.entered],
        [state, history, answer, *entry.faults],
        js=FRESH,
        show_progress_on=answer,
        **PREDICTION,
    )


def _for_visitor(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call, with the film that it reads kept for who asks, whom Gradio names to it."""

    def asked(request: gr.Request, *given: Any) -> Any:
        with read_for(request.session_hash):
            return call(*given)

    return asked


def on_film(room: ReadingRoom, path: str | None) -> list[Any]:
    """A file was chosen or taken away: show it, or say beside it why it cannot be read."""
    if not path:
        return [*viewer.closed(), _fault("")]
    try:
        return [*viewer.opened(room.task, room.film(path)), _fault("")]
    except InputError as error:
        return [*viewer.closed(), _fault(str(error))]


def on_note(room: ReadingRoom, note: str | None) -> Any:
    """The note was left: show it as the model will read it, where something is hidden."""
    spec = room.task.note
    if not note or not note.strip() or spec is None:
        return _fault("")
    try:
        masked = mask_note(note, spec)
    except NoteError as error:
        return _fault(str(error))
    hidden = masked != " ".join(note.split())
    return gr.update(value=show.masked_note(masked) if hidden else "", visible=hidden)


def on_predict(
    room: ReadingRoom,
    history: Sequence[Shown],
    path: str | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    *clinical: Any,
) -> tuple[Any, ...]:
    """Answer what was entered; a fault takes any earlier answer away and stands by its field."""
    for earlier in history:
        earlier.stop.set()  # nobody looks at its explanation any longer
    film_fault = clinical_fault = note_fault = fault = ""
    shown: Shown | None = None
    try:
        values = values_of(room.task.clinical, clinical)
        shown = room.answer(room.study(path, values, note, view, study_id))
    except RadiographError as error:
        film_fault = str(error)
    except ClinicalError as error:
        clinical_fault = message(error, room.task.clinical)
    except NoteError as error:
        note_fault = str(error)
    except InputError as error:
        fault = str(error)
    text = show.answer(room.bundle, shown) if shown else show.EMPTY
    note_line = _fault(note_fault) if note_fault else on_note(room, note)
    lines = [_fault(film_fault), _fault(clinical_fault), note_line, _fault(fault)]
    kept = [*history, shown][-HISTORY:] if shown else list(history)
    return (shown, kept, text, *lines)


def _fault(message: str) -> Any:
    return gr.update(value=show.fault(message), visible=bool(message))
