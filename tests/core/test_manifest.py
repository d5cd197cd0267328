"""The manifest is checked at the door, so that nothing behind it meets a bad row."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.task import Task
from cxr_mm.data.manifest import REQUIRED, Manifest

FLU, COLD = ({"name": n, "title": n} for n in ("flu", "cold"))
AGE = {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}


def make_task(**changes):
    result = {
        "name": "demo",
        "title": "Demonstration",
        "problem": "multilabel",
        "findings": [FLU, COLD],
        "source": {"kind": "synthetic"},
        "split": {"protocol": "patient"},
        "clinical": [AGE],
        "note": {},
        "licence": "CC0",
        "citation": "none",
    }
    return Task.model_validate({**result, **changes})


def make_frame(**changes):
    rows = {name: [None, None, None] for name in REQUIRED}
    rows |= {"study_id": list("abc"), "patient_id": list("ppq"), "group": list("ppq")}
    rows |= {"pixel_row": [0, -1, 1], "note": ["fever", None, None]}
    rows |= {"clinical.age": [np.nan, 61.0, np.nan]}
    rows |= {"finding.flu": [1.0, 0.0, np.nan], "finding.cold": [0.0, np.nan, 1.0]}
    return pd.DataFrame({**rows, **changes}, index=[7, 8, 9])


def test_labels_and_mask_are_in_the_tasks_order():
    manifest = Manifest.checked(make_task(), make_frame(extra=1))
    assert len(manifest) == 3
    np.testing.assert_array_equal(manifest.labels(), [[1, 0], [0, np.nan], [np.nan, 1]])
    assert manifest.labels().dtype == np.float32
    expected = [[True, False, True], [False, True, False], [True, False, False]]
    assert manifest.mask().tolist() == expected
    assert list(manifest.clinical().columns) == ["age"]
    assert "extra" not in manifest.frame
    assert manifest.frame.index.tolist() == [0, 1, 2]


def test_what_the_task_does_not_use_is_masked():
    mask = Manifest.checked(make_task(has_image=False, note=None), make_frame()).mask()
    assert mask.tolist() == [[False, False, False], [False, True, False], [False, False, False]]


def test_changing_the_labels_leaves_the_manifest_as_it_was():
    manifest = Manifest.checked(make_task(), make_frame())
    manifest.labels()[:] = 5
    assert manifest.labels()[0, 0] == 1


@pytest.mark.parametrize("column", ["pixel_row", "note", "clinical.age", "finding.cold"])
def test_a_missing_column_is_named(column):
    with pytest.raises(ManifestError, match=rf"^{column}: the column is missing"):
        Manifest.checked(make_task(), make_frame().drop(columns=column))


def test_an_empty_table_is_refused():
    with pytest.raises(ManifestError, match="no study is left"):
        Manifest.checked(make_task(), make_frame().iloc[:0])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"study_id": ["a", "b", "a"]}, "study_id: 'a' occurs twice"),
        ({"study_id": ["a", None, "c"]}, "study_id: row 1 has none"),
        ({"patient_id": ["p", "p", None]}, "patient_id: row 2 has none"),
        ({"group": [None, "p", "q"]}, "group: row 0 has none"),
        ({"finding.flu": [2.0, 0.0, 1.0]}, "finding.flu: a label is neither 1, 0 nor missing"),
        ({"finding.cold": ["yes", "no", None]}, "finding.cold: a label is not a number"),
    ],
)
def test_a_bad_cell_is_refused_with_its_column(change, said):
    with pytest.raises(ManifestError) as caught:
        Manifest.checked(make_task(), make_frame(**change))
    assert str(caught.value).startswith(said)


@pytest.mark.parametrize(("flu", "cold"), [(1, 1), (0, 0), (0, np.nan)])
def test_multiclass_rows_have_one_finding_or_no_label(flu, cold):
    task = make_task(problem="multiclass")
    right = {"finding.flu": [1.0, 0.0, np.nan], "finding.cold": [0.0, 1.0, np.nan]}
    assert len(Manifest.checked(task, make_frame(**right))) == 3
    wrong = {"finding.flu": [1.0, flu, np.nan], "finding.cold": [0.0, cold, np.nan]}
    with pytest.raises(ManifestError, match="study 'b' does not have exactly one finding"):
        Manifest.checked(task, make_frame(**wrong))
