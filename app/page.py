"""Page: the reading room as a Gradio application; layout and events, no reading of its own."""

from functools import partial
from html import escape
from typing import Any

import gradio as gr
import numpy as np
from numpy.typing import NDArray

from app import show, style
from app.form import asks_view, clinical_fields, message, values_of, view_field
from app.reading import ReadingRoom, Shown
from cxr_mm.data.note import mask_note
from cxr_mm.errors import ClinicalError, InputError, NoteError, RadiographError
from cxr_mm.explain import render
from cxr_mm.explain.methods import Method, methods_of
from cxr_mm.explain.watch import Watch

UPLOAD_LIMIT = "64mb"
QUEUE = 64
KEPT_SECONDS = 3600
Pixels = NDArray[np.uint8]


def build(room: ReadingRoom, examples: list[list[Any]] | None = None) -> gr.Blocks:
    """The page of one model.

    Args:
        room: answers, explains and logs.
        examples: rows of film path, note and clinical values, as `examples.read` gives them.
    """
    task, bundle = room.task, room.bundle
    with gr.Blocks(
        title=f"{task.title} · cxr_mm",
        analytics_enabled=False,
        delete_cache=(KEPT_SECONDS // 4, KEPT_SECONDS),
    ) as page:
        gr.HTML(show.notices(task), elem_id="notice")
        gr.HTML(show.header(task, bundle.name, bundle.digest), elem_id="header")
        state = gr.State(None, time_to_live=KEPT_SECONDS)
        with gr.Row():
            with gr.Column(scale=5, min_width=320):
                fields = _inputs(room)
            with gr.Column(scale=6, min_width=320):
                outputs = _outputs(room)
        if examples:
            gr.Examples(
                examples,
                [fields["film"], fields["note"], *fields["clinical"]],
                label="Examples (synthetic)" if task.synthetic else "Examples",
                example_labels=[f"Example {i + 1}" for i in range(len(examples))],
                api_visibility="private",
            )
        with gr.Accordion("About this model", open=False):
            gr.HTML(show.caveats(task))
        _events(room, state, fields, outputs)
    page.queue(max_size=QUEUE, default_concurrency_limit=4)
    return page


def _inputs(room: ReadingRoom) -> dict[str, Any]:
    task = room.task
    fields: dict[str, Any] = {}
    with gr.Column(visible=task.has_image, elem_classes="part"):
        gr.HTML('<h2 class="step">Film</h2>')
        with gr.Row(equal_height=True):
            # No list of file types: DICOM files often have no suffix. The content decides.
            fields["film"] = gr.File(
                label="Radiograph: PNG, JPEG or DICOM", type="filepath", height=170, scale=3
            )
            fields["preview"] = gr.Image(
                label="The film as read",
                interactive=False,
                format="png",
                height=170,
                buttons=["fullscreen"],
                elem_id="film-preview",
                alt_text="The uploaded radiograph",
                scale=2,
                min_width=140,
            )
        fields["film_fault"] = gr.HTML(visible=False)
        fields["view"] = view_field(task)
    fields["view"].visible = asks_view(task)
    with gr.Column(visible=bool(task.clinical), elem_classes="part"):
        gr.HTML('<h2 class="step">Clinical features</h2>')
        with gr.Row(elem_id="clinical"):
            fields["clinical"] = clinical_fields(task)
        fields["clinical_fault"] = gr.HTML(visible=False)
    with gr.Column(visible=task.note is not None, elem_classes="part"):
        gr.HTML('<h2 class="step">Note</h2>')
        fields["note"] = gr.Textbox(
            label="Clinical note, without names or other identifiers", lines=3, max_lines=8
        )
        fields["note_fault"] = gr.HTML(visible=False)
    fields["study_id"] = gr.Textbox(
        label="Study id (optional)",
        info="To add the outcome later; only a keyed hash of it is kept.",
        max_lines=1,
        visible=room.log is not None,
    )
    fields["fault"] = gr.HTML(visible=False)
    fields["predict"] = gr.Button("Predict", variant="primary", elem_id="predict")
    return fields


def _outputs(room: ReadingRoom) -> dict[str, Any]:
    outputs: dict[str, Any] = {}
    titles = [(f.title, f.name) for f in room.task.findings]
    gr.HTML('<h2 class="step" id="answered">Answer</h2>')
    outputs["answer"] = gr.HTML(show.EMPTY, elem_id="answer")
    outputs["why"] = gr.Column(visible=False, elem_classes="part")
    with outputs["why"]:
        gr.HTML('<h2 class="step">Why</h2>')
        outputs["finding"] = gr.Dropdown(
            titles,
            value=titles[0][1],
            label="Finding to explain",
            filterable=False,
            visible=len(titles) > 1,
        )
        outputs["shares"] = gr.HTML()
        outputs["method"] = gr.Dropdown(
            [(_titled(each), each.name) for each in methods_of("image")],
            value=room.film_method(),
            label="How the film is explained",
            filterable=False,
            visible=room.task.has_image,
        )
        outputs["overlay"] = gr.Image(
            label="The film explained",
            interactive=False,
            format="png",
            height=420,
            buttons=["fullscreen", "download"],
            elem_id="overlay",
            alt_text="The film with the regions that speak for the finding in colour",
            visible=room.task.has_image,
        )
        outputs["caption"] = gr.HTML()
        outputs["features"] = gr.HTML()
        outputs["words"] = gr.HTML()
    return outputs


def _titled(method: Method) -> str:
    return f"{method.title} (takes some seconds)" if method.slow else method.title


def _events(
    room: ReadingRoom, state: gr.State, fields: dict[str, Any], outputs: dict[str, Any]
) -> None:
    entered = [fields[n] for n in ("film", "note", "view", "study_id")] + fields["clinical"]
    faults = [fields[n] for n in ("film_fault", "clinical_fault", "note_fault", "fault")]
    reading = {"concurrency_id": "reading", "concurrency_limit": 4, "api_visibility": "private"}
    fields["film"].change(
        partial(on_film, room),
        fields["film"],
        [fields["preview"], fields["film_fault"]],
        show_progress="minimal",
        **reading,
    )
    if room.task.note is not None:
        fields["note"].blur(
            partial(on_note, room),
            fields["note"],
            fields["note_fault"],
            show_progress="hidden",
            **reading,
        )
    for field in entered:
        field.change(fn=None, js=style.STALE, api_visibility="private")
    answered = fields["predict"].click(
        partial(on_predict, room),
        entered,
        [state, outputs["answer"], outputs["why"], *faults],
        js=style.FRESH,
        show_progress_on=outputs["answer"],
        concurrency_id="prediction",
        concurrency_limit=2,
        api_visibility="private",
    )
    lane = {
        "concurrency_id": "explanation",
        "concurrency_limit": 1,
        "api_visibility": "private",
    }
    explained = {
        "inputs": [state, outputs["finding"], outputs["method"]],
        "outputs": [outputs["shares"], outputs["overlay"], outputs["caption"]],
        **lane,
    }
    detailed = {
        "inputs": [state, outputs["finding"]],
        "outputs": [outputs["features"], outputs["words"]],
        **lane,
    }
    answered.then(fn=None, js=style.LOOK, api_visibility="private")
    first = answered.then(partial(on_explain, room), **explained)
    first.then(partial(on_details, room), **detailed)
    again = outputs["finding"].input(partial(on_explain, room), **explained)
    again.then(partial(on_details, room), **detailed)
    outputs["method"].input(partial(on_explain, room), **explained)


def on_film(room: ReadingRoom, path: str | None) -> tuple[Pixels | None, Any]:
    """A file was chosen or taken away: show it, or say beside it why it cannot be read."""
    if not path:
        return None, _fault("")
    try:
        film = room.film(path)
    except InputError as error:
        return None, _fault(str(error))
    return render.grey(film.pixels), _fault("")


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
    path: str | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    *clinical: Any,
) -> tuple[Any, ...]:
    """Answer what was entered; a fault takes any earlier answer away and stands by its field."""
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
    return (shown, text, gr.update(visible=shown is not None), *lines)


def on_explain(
    room: ReadingRoom,
    shown: Shown | None,
    finding: str,
    method: str,
    progress: gr.Progress = gr.Progress(),  # noqa: B008  how Gradio is asked for one
) -> tuple[str, Pixels | None, str]:
    """Shares of the modalities and the map over the film for one finding."""
    if shown is None:
        return "", None, ""
    watch = Watch(told=lambda done, total: progress((done, total), desc="Asking the model"))
    pixels, caption = room.overlay(shown, finding, method, watch)
    return show.shares(shown, finding), pixels, f'<p class="quiet">{escape(caption)}</p>'


def on_details(room: ReadingRoom, shown: Shown | None, finding: str) -> tuple[str, str]:
    """Clinical features as bars and the note in colour, for one finding."""
    if shown is None:
        return "", ""
    bars, words = room.details(shown, finding)
    return show.part("Clinical features", bars), show.part("Note", words)


def _fault(message: str) -> Any:
    return gr.update(value=show.fault(message), visible=bool(message))
