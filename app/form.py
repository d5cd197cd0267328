"""Form: the clinical fields of a task, with unit and range in the label and a blank for unknown."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from cxr_mm.contracts.task import ClinicalFeature, Task
from cxr_mm.contracts.units import spoken
from cxr_mm.errors import InputError

UNKNOWN = "unknown"
VIEWS = ("PA", "AP", "AP Supine")


def label_of(feature: ClinicalFeature) -> str:
    """Title, range and unit, as `Age (0 to 120 years)`."""
    if feature.type == "category":
        return feature.title
    return f"{feature.title} ({feature.minimum:g} to {feature.maximum:g}{spoken(feature.unit)})"


def clinical_fields(task: Task) -> list[Any]:
    """One field for each clinical feature of the task, in its order, each blank at first.

    A number is entered as text: a blank `gr.Number` shows 0 and hands in 0, and unknown is not 0.
    The clinical transform checks it, so that the message names the feature.
    """
    return [_field(feature) for feature in task.clinical]


def _field(feature: ClinicalFeature) -> Any:
    label, info = label_of(feature), feature.description or None
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
    """View position of the film; blank takes what the file says."""
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
