"""A task that contradicts itself is refused, and the message says where."""

import pytest
from pydantic import ValidationError

from cxr_mm.core.task import Task

FLU = {"name": "flu", "title": "Influenza"}
COLD = {"name": "cold", "title": "Common cold"}
AGE = {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
SEX = {"name": "sex", "title": "Sex", "type": "category", "categories": ["F", "M"]}
RIGHT = {
    "name": "demo",
    "title": "A demonstration",
    "problem": "binary",
    "findings": [FLU],
    "source": {"kind": "synthetic"},
    "split": {"protocol": "patient"},
    "clinical": [AGE, SEX],
    "licence": "CC0",
    "citation": "none",
}


def without(mapping, key):
    return {name: value for name, value in mapping.items() if name != key}


def test_a_task_that_is_right_says_what_it_uses():
    task = Task.model_validate({**RIGHT, "note": {}})
    assert task.modalities == ("image", "tabular", "note")
    assert task.finding_names == ("flu",)
    assert task.clinical_names == ("age", "sex")
    assert task.findings[0].raw_column == "flu"
    assert task.synthetic


def test_modalities_follow_what_is_declared():
    task = Task.model_validate({**RIGHT, "has_image": False, "clinical": [], "note": {}})
    assert task.modalities == ("note",)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"findings": [FLU, COLD]}, "binary task has exactly one finding"),
        ({"problem": "multiclass"}, "multiclass task has at least two findings"),
        ({"problem": "regression"}, "problem"),
        ({"findings": []}, "findings"),
        ({"problem": "multilabel", "findings": [FLU, FLU]}, "findings: a name occurs twice"),
        ({"clinical": [AGE, AGE]}, "clinical: a name occurs twice"),
        ({"findings": [{**FLU, "name": "The Flu"}]}, "must be lower case"),
        ({"clinical": [{**AGE, "name": "age-years"}]}, "must be lower case"),
        ({"name": "../demo"}, "must be lower case"),
        ({"clinical": [without(AGE, "maximum")]}, "age: a number needs minimum < maximum"),
        ({"clinical": [{**AGE, "maximum": 0}]}, "age: a number needs minimum < maximum"),
        ({"clinical": [{**SEX, "categories": ["F"]}]}, "sex: a category needs at least two"),
        ({"clinical": [{**SEX, "aliases": {"m": "male"}}]}, "unknown categories ['male']"),
        ({"note": {"mask": ["fine", "("]}}, "'(' is no regular expression"),
        ({"has_image": False, "clinical": []}, "at least one of image, clinical"),
        ({"split": {"protocol": "folds", "folds": 2}}, "split.folds"),
        ({"split": {"protocol": "patient", "test_fraction": 0.7}}, "split.test_fraction"),
        ({"source": {"kind": "ftp"}}, "source.kind"),
        ({"colour": "blue"}, "colour"),
        ({"findings": [{**FLU, "weight": 2}]}, "findings.0.weight"),
    ],
)
def test_each_contradiction_is_refused(change, said):
    with pytest.raises(ValidationError) as caught:
        Task.model_validate({**RIGHT, **change})
    assert said in str(caught.value)


@pytest.mark.parametrize("key", ["name", "title", "problem", "source", "split", "licence"])
def test_what_must_be_said_must_be_said(key):
    with pytest.raises(ValidationError, match=f"(?s){key}.*Field required"):
        Task.model_validate(without(RIGHT, key))


def test_a_task_cannot_be_changed_after_it_was_checked():
    with pytest.raises(ValidationError, match="frozen"):
        Task.model_validate(RIGHT).problem = "multiclass"
