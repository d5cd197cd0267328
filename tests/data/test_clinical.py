"""Clinical features: checked at the door, and missing said by a flag."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxr_mm.core.errors import ClinicalError
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.data.clinical import ClinicalTransform, by_feature, check_clinical

AGE = ClinicalFeature(name="age", title="Age", type="number", unit="a", minimum=0, maximum=120)
SEX = ClinicalFeature(
    name="sex", title="Sex", type="category", categories=("F", "M"), aliases={"female": "F"}
)
FEATURES = (AGE, SEX)


@pytest.mark.parametrize("nothing", [None, "", " ", "unknown", "NA", float("nan"), pd.NA])
def test_every_way_to_say_nothing_is_none(nothing):
    assert check_clinical(FEATURES, {"age": nothing, "sex": nothing}) == {"age": None, "sex": None}


def test_numbers_and_categories_are_read_as_written():
    assert check_clinical(FEATURES, {"age": " 63 ", "sex": "FEMALE"}) == {"age": 63.0, "sex": "F"}


@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        (
            {"age": "130"},
            "out of range",
            "age: 130 is out of range. Give a number from 0 to 120 years",
        ),
        ({"age": "inf"}, "no number", "age: 'inf' is no number"),
        ({"age": "old"}, "no number", "'old' is no number"),
        ({"sex": "x"}, "none of its categories", "Give one of F, M"),
        ({"age": "9" * 90}, "out of range", f"age: {'9' * 40}… is out of range"),
    ],
)
def test_a_value_that_cannot_be_used_is_unknown_and_named_with_its_remedy(values, kind, said):
    checked = check_clinical(FEATURES, {"age": 63, "sex": "F"} | values)
    assert checked == {"age": 63, "sex": "F"} | dict.fromkeys(values)
    (fault,) = checked.faults
    assert said in str(fault)
    assert fault.kind == kind
    assert check_clinical(FEATURES, checked) is checked


def test_a_feature_that_the_task_does_not_have_is_an_error():
    with pytest.raises(ClinicalError, match=r"height: no such .* This task knows age, sex"):
        check_clinical(FEATURES, {"height": 1})


AGE = {"type": "number", "minimum": 0, "maximum": 120}
HEADED = [
    ClinicalFeature(name="age", title="Age", column="Alter", **AGE),
    ClinicalFeature(name="first", title="First", column="Wert", **AGE),
    ClinicalFeature(name="last", title="Last", column="Wert", **AGE),
    ClinicalFeature(name="wert", title="Value", column="Alter (Mutter)", **AGE),
    ClinicalFeature(name="plain", title="Plain", **AGE),
]


def test_a_feature_is_known_by_its_name_and_by_the_heading_of_its_column():
    values = {"Alter": "63", "Alter (Mutter)": "90", "first": "1"}
    assert by_feature(HEADED, values) == {"age": "63", "wert": "90", "first": "1"}
    checked = check_clinical(HEADED, values)
    assert checked == {"age": 63, "first": 1, "last": None, "wert": 90, "plain": None}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"Wert": 1}, r"Wert: the column of several clinical features \(first, last\)"),
        ({"Alter": 1, "age": 1}, "age, age: given twice"),
        ({"Größe": 1}, r"Größe: no such .* age \(or 'Alter'\), .* plain\."),
        ({"": 1}, "no such clinical feature"),
    ],
)
def test_a_heading_that_is_no_one_feature_is_an_error(values, message):
    with pytest.raises(ClinicalError, match=message):
        check_clinical(HEADED, values)


def frame(ages, sexes):
    return pd.DataFrame(
        {"age": pd.Series(ages, dtype=float), "sex": pd.Series(sexes, dtype=object)}
    )


def test_fitted_on_training_rows_it_gives_scores_flags_and_categories():
    transform = ClinicalTransform.fit(FEATURES, frame([40, 60, None], ["F", None, "M"]))
    rows = transform.apply(frame([50, None], ["M", None]))
    assert transform.columns == ("age", "age?", "sex=F", "sex=M", "sex?")
    np.testing.assert_allclose(rows, [[0, 0, 0, 1, 0], [0, 1, 0, 0, 1]])


def test_what_no_training_study_had_is_said():
    transform = ClinicalTransform.fit(FEATURES, frame([40, 60.5, None], ["F", None, "F"]))
    again = ClinicalTransform.from_json(FEATURES, transform.to_json())
    assert again.unseen({"age": 40.0, "sex": "F"}) == []
    assert again.unseen({"age": None, "sex": None}) == []
    assert again.unseen({"age": 8.0, "sex": "M"}) == [
        "age: 8 years is outside the 40 to 60.5 trained on",
        "sex: M was not among those trained on",
    ]


@given(st.lists(st.one_of(st.none(), st.floats(0, 120)), min_size=1, max_size=20))
def test_the_vector_is_always_finite(ages):
    rows = frame(ages, [None] * len(ages))
    transform = ClinicalTransform.fit(FEATURES, rows)
    assert np.isfinite(transform.apply(rows)).all()


def test_what_was_fitted_survives_json():
    transform = ClinicalTransform.fit(FEATURES, frame([40, 60, 70], ["F", "M", "M"]))
    again = ClinicalTransform.from_json(FEATURES, transform.to_json())
    rows = frame([33, None], ["F", None])
    assert np.array_equal(again.apply(rows), transform.apply(rows))
    assert transform.owners == ("age", "age", "sex", "sex", "sex")
