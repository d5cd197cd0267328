"""Entry: image, clinical features and note of one study.

What the form says of its inputs appears below the button, or in room reserved for it: nothing that
appears may move a control, or a click that has begun is lost.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from app.service import InferenceService, StudySession
from app.ui import answer, viewer
from app.ui.theme import FRESH, KEPT_SECONDS, READING, prediction_queue
from cxr_mm.core.errors import ClinicalError, InputError, NoteError, RadiographError
from cxr_mm.core.task import ClinicalFeature, Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.notes import mask_note
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE, read_manifest_csv
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise

UNKNOWN = "unknown"
VIEWS = ("PA", "AP", "AP Supine")


def label_of(feature: ClinicalFeature) -> str:
    """Title, range and unit, as `Age (0 to 120 years)`."""
    if feature.type == "category":
        return feature.title
    return f"{feature.title} ({feature.minimum:g} to {feature.maximum:g}{feature.unit_suffix})"


def clinical_fields(task: Task, uninformative: Mapping[str, str] | None = None) -> list[Any]:
    """One field for each clinical feature of the task, in its order, each blank at first.

    Of an uninformative feature (`ClinicalTransform.uninformative`) the field says so.

    A number is entered as text: a blank `gr.Number` shows 0 and hands in 0, and unknown is not 0.
    The clinical transform checks it, so that the message names the feature.
    """
    flaws = uninformative or {}
    return [_field(feature, flaws.get(feature.name, "")) for feature in task.clinical]


def _field(feature: ClinicalFeature, flaw: str) -> Any:
    label, info = label_of(feature), feature.description or None
    if flaw:
        info = f"The model could not learn from it: {flaw} in its training studies."
    if feature.type == "category":
        choices = [(UNKNOWN, ""), *((c, c) for c in feature.categories)]
        return gr.Dropdown(
            choices, value="", label=label, info=info, filterable=False, min_width=150
        )
    signed = feature.minimum is None or feature.minimum < 0
    return gr.Textbox(
        value="",
        label=label,
        info=info,
        placeholder=UNKNOWN,
        max_lines=1,
        min_width=150,
        elem_classes=[] if signed else ["decimal"],
        html_attributes=gr.InputHTMLAttributes(autocomplete="off", spellcheck=False),
    )


def view_field(task: Task) -> Any:
    """View position of the image; blank takes what the file says."""
    choices = [("as the file says, or unknown", ""), *((v, v) for v in task.views or VIEWS)]
    return gr.Dropdown(choices, value="", label="View position", filterable=False, min_width=150)


def asks_view(task: Task) -> bool:
    """Whether the view is asked for on its own, and not already as a clinical feature."""
    return task.has_image and "view" not in task.clinical_names


def values_of(features: Sequence[ClinicalFeature], entered: Sequence[Any]) -> dict[str, Any]:
    """What was entered, by feature name; blank becomes None."""
    return {
        feature.name: None if value in ("", None) else value
        for feature, value in zip(features, entered, strict=True)
    }


def message(error: InputError, features: Sequence[ClinicalFeature]) -> str:
    """The error in the words of the form: the field's label in place of the feature's name."""
    for feature in features:
        if feature.name == error.field:
            return f"{label_of(feature)}: {error.message}."
    return str(error)


HISTORY = 12
"""Answered studies that a page remembers, the oldest forgotten first."""
IDENTIFIERS = "without names or other identifiers"
LOGGED_IDS = {
    "Study id (optional)": "To add the outcome later; only a keyed hash of it is kept.",
    "Patient id (optional)": "To keep a patient's studies together, and to erase them; hashed too.",
}
"""Label and explanation of the ids that the log keeps hashes of."""


@dataclass(frozen=True)
class Entry:
    """The parts of the form.

    Args:
        ids: of study and patient.
        entered: what `on_predict` takes, in its order.
        faults: of image, clinical features, note, and the rest.
    """

    image: Any
    viewer: viewer.Viewer
    clinical: list[Any]
    note: Any
    ids: list[Any]
    entered: list[Any]
    faults: list[Any]
    predict: Any


def build(service: InferenceService) -> Entry:
    """Place the form where the page stands, and wire what stays within it."""
    task = service.task
    mounted = ["part", "image", *(["asks-view"] if asks_view(task) else [])]
    with gr.Column(visible=task.has_image, elem_classes=mounted):
        gr.HTML(answer.piece("heading", "Image"))
        # No list of file types: DICOM files often have no suffix. The content decides.
        image = gr.File(
            label="Radiograph: PNG, JPEG or DICOM",
            type="filepath",
            height=150,
            elem_id="study-image",
        )
        view = view_field(task)
        view.visible = asks_view(task)
        image_fault = gr.HTML(visible=False)
        preview = viewer.build(KEPT_SECONDS)
    with gr.Column(visible=bool(task.clinical), elem_classes="part"):
        gr.HTML(answer.piece("heading", "Clinical features"))
        with gr.Row(elem_id="clinical"):
            clinical = clinical_fields(task, service.bundle.clinical.uninformative())
    with gr.Column(visible=task.note is not None, elem_classes="part"):
        gr.HTML(answer.piece("heading", "Note"))
        note = gr.Textbox(label=f"Clinical note, {IDENTIFIERS}", lines=3, max_lines=8)
    with gr.Row(visible=service.log is not None):
        study_id, patient_id = (
            gr.Textbox(label=label, info=info, max_lines=1, min_width=200)
            for label, info in LOGGED_IDS.items()
        )
    predict = gr.Button("Predict", variant="primary", elem_id="predict")
    with gr.Column(elem_id="messages"):
        clinical_fault, note_fault, fault = (gr.HTML(visible=False) for _ in range(3))
    faults = [image_fault, clinical_fault, note_fault, fault]
    entry = Entry(
        image,
        preview,
        clinical,
        note,
        [study_id, patient_id],
        [image, note, view, study_id, patient_id, *clinical],
        faults,
        predict,
    )
    _events(service, entry)
    return entry


def _events(service: InferenceService, entry: Entry) -> None:
    image_fault, _, note_fault, _ = entry.faults
    entry.image.change(
        _with_session(partial(on_image, service)),
        entry.image,
        [*entry.viewer.outputs, image_fault],
        show_progress="minimal",
        **READING,
    )
    entry.viewer.fill.click(
        partial(viewer.filled, service.task), entry.viewer.kept, entry.clinical, **READING
    )
    if service.task.note is not None:
        entry.note.blur(
            partial(on_note, service), entry.note, note_fault, show_progress="hidden", **READING
        )


def bind_events(
    service: InferenceService, entry: Entry, state: Any, history: Any, shown: Any
) -> Any:
    """Wire the button: what it hands in, and `on_predict`'s answer; the event is returned."""
    return entry.predict.click(
        _with_session(partial(on_predict, service)),
        [history, *entry.entered],
        [state, history, shown, *entry.faults],
        js=FRESH,
        show_progress_on=shown,
        **prediction_queue(service),
    )


def _with_session(call: Callable[..., Any]) -> Callable[..., Any]:
    """The call with Gradio's key of the browser session, under which its image is cached."""

    def on_request(request: gr.Request, *inputs: Any) -> Any:
        return call(*inputs, session=request.session_hash)

    return on_request


def on_image(service: InferenceService, path: str | None, session: str | None = None) -> list[Any]:
    """A file was chosen or taken away: show it, or say below it why it cannot be read."""
    if not path:
        return [*viewer.closed(), _fault("")]
    try:
        return [*viewer.opened(service.task, service.image(path, session)), _fault("")]
    except InputError as error:
        return [*viewer.closed(), _fault(str(error))]


def on_note(service: InferenceService, note: str | None) -> Any:
    """The note was left: show it as the model will read it, where something is hidden."""
    spec = service.task.note
    if not note or not note.strip() or spec is None:
        return _fault("")
    try:
        masked = mask_note(note, spec)
    except NoteError as error:
        return _fault(str(error))
    hidden = masked != " ".join(note.split())
    return gr.update(value=answer.masked_note(masked) if hidden else "", visible=hidden)


def on_predict(
    service: InferenceService,
    history: Sequence[StudySession],
    path: str | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    patient_id: str | None,
    *clinical: Any,
    session: str | None = None,
) -> tuple[Any, ...]:
    """Answer what was entered; a fault takes any earlier answer away and names its field."""
    for prior in history:
        prior.stop.set()  # no one looks at its explanation any longer
    image_fault = clinical_fault = note_fault = fault = ""
    study_session: StudySession | None = None
    try:
        features = service.task.clinical
        values = check_clinical(features, values_of(features, clinical))
        clinical_fault = " ".join(message(fault, features) for fault in values.faults)
        study_session = service.answer(
            service.study(path, values, note, view, study_id, patient_id, session)
        )
    except RadiographError as error:
        image_fault = str(error)
    except ClinicalError as error:
        clinical_fault = message(error, service.task.clinical)
    except NoteError as error:
        note_fault = str(error)
    except InputError as error:
        fault = str(error)
    text = answer.answer(service.bundle, study_session) if study_session else answer.EMPTY
    note_line = _fault(note_fault) if note_fault else on_note(service, note)
    lines = [_fault(image_fault), _fault(clinical_fault), note_line, _fault(fault)]
    stored = [*history, study_session][-HISTORY:] if study_session else list(history)
    return (study_session, stored, text, *lines)


def _fault(message: str) -> Any:
    return gr.update(value=answer.fault(message), visible=bool(message))


EXAMPLES = 6
SEED = 2026
"""Of the phantoms, whom no model of ours was trained on."""


def phantoms(folder: Path, count: int = EXAMPLES) -> Path:
    """Draw synthetic studies, as the task `synthetic` has them, into a folder."""
    return synthesise(folder, SynthesisSpec(studies=count, seed=SEED), workers=1)


def read(folder: Path, task: Task, count: int = EXAMPLES) -> list[list[Any]]:
    """Image path, note and clinical values of up to `count` studies, most inputs first.

    Raises:
        ManifestError: the folder has no manifest.csv, or a column is missing.
    """
    frame = read_manifest_csv(folder / DEFAULT_FILE, task, "predict")
    note = task.note.column if task.note else None
    features = [feature.column_in(frame.columns) for feature in task.clinical]
    columns = ["image_path", *([note] if note else []), *features]
    fullest = frame[columns].notna().sum(axis=1).sort_values(ascending=False, kind="stable")
    rows = []
    for _, row in frame.loc[fullest.index[:count]].iterrows():
        values = {k: v for k, v in row.items() if isinstance(v, str)}
        path = values.get("image_path")
        image = path if path and Path(path).is_file() else None
        clinical = [values.get(name, "") for name in features]
        rows.append([image, values.get(note or "") or "", *clinical])
    return rows
