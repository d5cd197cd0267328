"""Form: labels say unit and range, blank means unknown, messages speak the form's words."""

import gradio as gr
import pandas as pd
import pytest

from app.ui.study_form import asks_view, clinical_fields, label_of, message, values_of
from cxr_mm.core.errors import InputError
from cxr_mm.core.task import ClinicalFeature, load_task, shipped_tasks
from cxr_mm.data.clinical import ClinicalTransform, check_clinical

TEMPERATURE = ClinicalFeature(
    name="temperature", title="Temperature", type="number", unit="Cel", minimum=30, maximum=43
)
SEX = ClinicalFeature(name="sex", title="Sex", type="category", categories=("female", "male"))


def test_a_label_says_range_and_unit():
    assert label_of(TEMPERATURE) == "Temperature (30 to 43 °C)"
    assert label_of(SEX) == "Sex"


def test_blank_fields_are_unknown_and_not_zero():
    values = values_of((TEMPERATURE, SEX), ["", ""])
    assert check_clinical((TEMPERATURE, SEX), values) == {"temperature": None, "sex": None}


def test_entered_values_reach_the_check():
    values = values_of((TEMPERATURE, SEX), ["38.5", "male"])
    assert check_clinical((TEMPERATURE, SEX), values) == {"temperature": 38.5, "sex": "male"}


@pytest.mark.parametrize("entered", ["99", "warm", "1,045"])
def test_a_fault_names_the_field_as_the_form_does(entered):
    (fault,) = check_clinical((TEMPERATURE,), {"temperature": entered}).faults
    text = message(fault, (TEMPERATURE, SEX))
    assert text.startswith("Temperature (30 to 43 °C): ")
    assert entered in text


def test_other_faults_keep_their_own_words():
    assert message(InputError("no", field="image"), (TEMPERATURE,)) == "image: no."


@pytest.mark.parametrize("name", shipped_tasks())
def test_every_shipped_task_has_a_form(name):
    task = load_task(name)
    with gr.Blocks(analytics_enabled=False):
        fields = clinical_fields(task)
    assert [f.label for f in fields] == [label_of(c) for c in task.clinical]
    assert all(f.value in ("", None) for f in fields)


def test_a_feature_that_taught_nothing_says_so():
    frame = pd.DataFrame({"temperature": [37.0, 37.0, None], "sex": ["male", "female", None]})
    found = ClinicalTransform.fit((TEMPERATURE, SEX), frame).uninformative()
    assert found == {"temperature": "always 37"}
    empty = ClinicalTransform.fit((TEMPERATURE, SEX), frame.iloc[2:]).uninformative()
    assert empty == {"temperature": "no value", "sex": "no value"}
    task = load_task("icu")
    name = task.clinical_names[0]
    with gr.Blocks(analytics_enabled=False):
        fields = clinical_fields(task, {name: "no value"})
    assert "could not learn from it: no value in its training studies" in fields[0].info
    assert not any("could not learn" in (field.info or "") for field in fields[1:])


def test_the_view_is_asked_for_once():
    assert asks_view(load_task("icu"))
    assert not asks_view(load_task("effusion"))
    assert asks_view(load_task("pneumonia"))
