"""Every error is one line: field, what is wrong, what to do; and no more than that."""

import inspect
from pathlib import Path

import pandas as pd
import pytest
import yaml

from cxr_mm.core import errors
from cxr_mm.core.config import for_task, load_params
from cxr_mm.core.errors import CxrError, InputError, did_you_mean
from cxr_mm.core.task import load_task, task_of
from cxr_mm.data.clinical import by_feature
from cxr_mm.data.task_draft.known import no_such_column
from cxr_mm.explain.methods import method

TASK = load_task("synthetic")
PARAMS = Path(__file__).parents[2] / "params.yaml"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it is wrong."),
        ({"field": "age"}, "age: it is wrong."),
        ({"remedy": "Mend it"}, "it is wrong. Mend it."),
        ({"field": "age", "remedy": "Mend it"}, "age: it is wrong. Mend it."),
    ],
)
def test_message_is_field_message_remedy(given, said):
    assert str(CxrError("it is wrong", **given)) == said


def test_message_is_one_line_even_when_a_part_is_not():
    error = CxrError("yaml says:\n  line 3\n\tcolumn 4", field="a\nb", remedy="Mend\r\nit")
    assert str(error) == "a b: yaml says: line 3 column 4. Mend it."
    assert error.message == "yaml says:\n  line 3\n\tcolumn 4"


def test_there_is_one_tree():
    kinds = [
        k for _, k in inspect.getmembers(errors, inspect.isclass) if k.__module__ == errors.__name__
    ]
    assert len(kinds) > 10
    assert all(issubclass(kind, CxrError) for kind in kinds)
    given = {"RadiographError", "ClinicalError", "NoteError", "ManifestError", "InputError"}
    given |= {"UndecodedError"}
    assert {kind.__name__ for kind in kinds if issubclass(kind, InputError)} == given


def with_parameter(folder, section, name):
    path = folder / "params.yaml"
    path.write_text(yaml.safe_dump({"tasks": ["synthetic"], section: {name: 1}}))
    return path


def column(name):
    raise no_such_column(Path("table.csv"), name, pd.DataFrame(columns=["study", "creatinine"]))


MISTYPED = {
    "task": (lambda folder: load_task("pnuemonia"), "Did you mean pneumonia?"),
    "field of a task": (
        lambda folder: task_of(
            {**TASK.model_dump(), "findings": [{"name": "a", "title": "A", "postive": ["1"]}]}
        ),
        "did you mean positive",
    ),
    "finding": (lambda folder: TASK.finding_name("efusion"), "Did you mean effusion?"),
    "clinical feature": (
        lambda folder: by_feature(TASK.clinical, {"agge": 63}),
        "Did you mean age?",
    ),
    "method": (lambda folder: method("gradcam"), "Did you mean grad_cam?"),
    "section": (
        lambda folder: load_params(with_parameter(folder, "train_imge", "epochs")),
        "did you mean train_image",
    ),
    "parameter": (
        lambda folder: load_params(with_parameter(folder, "train_image", "epoch")),
        "did you mean epochs",
    ),
    "section of a task's own": (
        lambda folder: for_task(
            load_params(PARAMS), TASK.model_copy(update={"params": {"ingets": {"size": 64}}})
        ),
        "Did you mean ingest?",
    ),
    "column": (lambda folder: column("creatinin"), "Did you mean creatinine?"),
}


@pytest.mark.parametrize("kind", MISTYPED)
def test_a_mistyped_name_is_answered_with_the_one_most_like_it(kind, tmp_path):
    call, expected = MISTYPED[kind]
    with pytest.raises(CxrError) as caught:
        call(tmp_path)
    assert expected in str(caught.value)


def test_what_is_like_no_name_is_answered_with_all_of_them():
    assert did_you_mean("qqq", ["effusion", "age"], "There are two") == "There are two"
