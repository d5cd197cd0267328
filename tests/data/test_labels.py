from dataclasses import replace

import pandas as pd
import pytest

from cxr_mm.core.errors import ManifestError, TaskError
from cxr_mm.core.task import Task, load_task
from cxr_mm.data.labels import expected_cells, to_manifest
from cxr_mm.data.sources import read_source
from cxr_mm.data.sources.base import raw_studies
from cxr_mm.data.sources.losses import Dropped

FINDINGS = {
    "binary": [
        {
            "name": "flu",
            "title": "Flu",
            "column": "finding",
            "positive": ["flu"],
            "negative": ["*"],
            "unlabelled": ["todo"],
        }
    ],
    "multiclass": [
        {"name": n, "title": n, "column": "finding", "positive": [n], "negative": ["*"]}
        for n in ("well", "sick")
    ],
    "multilabel": [{"name": n, "title": n} for n in ("edema", "mass")],
}


def task(problem="binary", **fields):
    return Task.model_validate(
        {
            "name": "own",
            "title": "Own",
            "problem": problem,
            "findings": FINDINGS[problem],
            "clinical": [
                {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120},
                {
                    "name": "sex",
                    "title": "Sex",
                    "type": "category",
                    "categories": ["F", "M"],
                    "aliases": {"female": "F"},
                },
            ],
            "note": {},
            "source": {"kind": "manifest_csv"},
            "split": {"protocol": "patient"},
            "licence": "none",
            "citation": "none",
        }
        | fields
    )


def raw(*rows, dropped=()):
    default = {
        "patient_id": "p",
        "image_path": "/a.png",
        "view": "PA",
        "age": "50",
        "sex": "F",
        "note": "cough",
        "finding": "flu",
    }
    table = [default | {"study_id": str(i)} | row for i, row in enumerate(rows)]
    return raw_studies(pd.DataFrame(table), list(dropped))


def labels_of(found, **fields):
    rows = raw(*({"finding": f} for f in found))
    return to_manifest(task(**fields), rows)


def test_one_of_several_labels_is_enough_and_star_is_any_other():
    labelled = labels_of(["flu|ards", "mumps", "todo", None, "mumps|todo"])
    frame = labelled.manifest.frame.set_index("study_id")
    assert frame["finding.flu"].to_dict() == {"0": 1.0, "1": 0.0, "4": 0.0}
    assert labelled.dropped == [Dropped("2", "no label"), Dropped("3", "no label")]


def test_label_that_is_neither_is_said_to_be():
    findings = [FINDINGS["binary"][0] | {"negative": ["none"]}]
    labelled = labels_of(["flu", "none", "mumps"], findings=findings)
    assert labelled.manifest.labels().ravel().tolist() == [1, 0]
    assert labelled.dropped == [Dropped("2", "label neither yes nor no", "mumps")]


def test_numbers_that_a_spreadsheet_made_floats():
    rows = raw(*({"edema": e, "mass": m} for e, m in [(1.0, "0.0"), (0, None), ("1", "maybe")]))
    labelled = to_manifest(task("multilabel"), rows)
    frame = labelled.manifest.frame
    assert frame["finding.edema"].tolist() == [1.0, 0.0, 1.0]
    assert frame["finding.mass"].isna().tolist() == [False, True, True]
    assert labelled.cleared == {("finding.mass", "neither yes nor no", "maybe"): 1}


def test_multiclass_keeps_rows_with_exactly_one_class():
    labelled = labels_of(["well", "sick", "well|sick", "odd", None], problem="multiclass")
    assert labelled.manifest.labels().tolist() == [[1, 0], [0, 1]]
    reasons = [d.reason for d in labelled.dropped]
    assert reasons == ["not exactly one finding", "not exactly one finding", "no label"]


def test_multiclass_yes_to_one_is_no_to_the_others():
    findings = [{"name": n, "title": n} for n in ("well", "sick")]
    rows = raw({"well": "1", "sick": None}, {"well": "0", "sick": "1"})
    labelled = to_manifest(task("multiclass", findings=findings), rows)
    assert labelled.manifest.labels().tolist() == [[1, 0], [0, 1]]


def test_impossible_values_become_missing_and_are_counted():
    rows = [
        {"age": "414", "sex": "female"},
        {"age": "old", "sex": "x"},
        {"age": float("nan"), "sex": ""},
        {"age": "414", "finding": "todo"},
    ]
    labelled = to_manifest(task(), raw(*rows))
    frame = labelled.manifest.frame
    assert frame["clinical.age"].isna().all()
    assert frame["clinical.sex"].fillna("?").tolist() == ["F", "?", "?"]
    assert labelled.cleared == {
        ("clinical.age", "out of range", "414"): 1,
        ("clinical.age", "no number", "old"): 1,
        ("clinical.sex", "none of its categories", "x"): 1,
    }


def test_view_filter_names_the_view():
    labelled = to_manifest(task(views=["PA"]), raw({}, {"view": "L"}, {"view": None}))
    assert len(labelled.manifest) == 1
    assert [d.reason for d in labelled.dropped] == ["view L", "view not known"]


def test_study_without_anything_to_read_is_dropped():
    nothing = {"image_path": None, "age": None, "sex": "unknown", "note": " "}
    labelled = to_manifest(task(), raw(nothing, nothing | {"note": "cough"}))
    assert labelled.manifest.frame["study_id"].tolist() == ["1"]
    assert labelled.manifest.mask().tolist() == [[False, False, True]]
    assert labelled.dropped == [Dropped("0", "no image, clinical value or note")]


def test_unreadable_note_becomes_missing_and_is_counted():
    labelled = to_manifest(task(), raw({"note": "x" * 30_000}, {}))
    assert labelled.manifest.frame["note"].tolist() == [None, "cough"]
    assert labelled.cleared == {("note", "not readable", ""): 1}


def test_modalities_the_task_lacks_are_left_out():
    labelled = to_manifest(task(has_image=False, note=None), raw({}))
    assert labelled.manifest.frame.loc[0, ["image_path", "note"]].tolist() == [None, None]


def test_group_is_the_sources_then_the_patient():
    rows = raw({"group": "g"}, {"group": None}, {"patient_id": None})
    labelled = to_manifest(task(), rows)
    assert labelled.manifest.frame["group"].tolist() == ["g", "p"]
    assert labelled.dropped == [Dropped("2", "no patient_id")]


def test_group_key_of_the_task():
    rows = raw({"group": "g", "ward": "w1"}, {"ward": "w2"})
    grouped = to_manifest(task(group_key="ward"), rows).manifest.frame["group"]
    assert grouped.tolist() == ["w1", "w2"]
    with pytest.raises(TaskError, match="group_key: 'bed' is no column"):
        to_manifest(task(group_key="bed"), rows)


@pytest.mark.parametrize(
    ("cell", "label"),
    [
        ("TRUE", 1),
        ("False", 0),
        ("yes", 1),
        ("NO", 0),
        ("1.0", 1),
        ("0,0", 0),
        ("wahr", 1),
        ("nein", 0),
        ("0.93", None),
        ("0,93", None),
        ("1,045", None),
        ("perhaps", None),
    ],
)
def test_common_spellings_of_one_and_nought_and_no_probability(cell, label):
    rows = raw({"edema": cell, "mass": "1"})
    labelled = to_manifest(task("multilabel"), rows)
    found = labelled.manifest.frame["finding.edema"][0]
    assert (None if pd.isna(found) else found) == label
    assert bool(labelled.cleared) == (label is None)


def test_the_tasks_own_values_come_before_common_spellings():
    own = {"positive": ["no", "Flu"], "negative": ["1"], "unlabelled": ["yes"]}
    findings = [FINDINGS["binary"][0] | own]
    labelled = labels_of(["no", "1", "yes", "FLU"], findings=findings)
    assert labelled.manifest.labels().ravel().tolist() == [1, 0, 1]
    assert labelled.dropped == [Dropped("2", "no label")]


def test_a_probability_is_not_any_other_label():
    findings = [FINDINGS["binary"][0] | {"positive": ["1"], "negative": ["*"]}]
    labelled = labels_of(["1", "0", "0.0", "0.93"], findings=findings)
    assert labelled.manifest.labels().ravel().tolist() == [1, 0, 0]
    assert labelled.dropped == [Dropped("3", "label neither yes nor no", "0.93")]


@pytest.mark.parametrize("cell", ["mumps, flu", "flu;ards", "mumps|flu", "mumps; NA; flu"])
def test_lists_of_labels_by_any_separator(cell):
    findings = [FINDINGS["binary"][0] | {"negative": ["mumps"]}]
    assert labels_of([cell], findings=findings).manifest.labels().ravel().tolist() == [1]


def test_a_label_with_a_comma_in_it_is_one_label():
    findings = [FINDINGS["binary"][0] | {"positive": ["flu"], "negative": ["no flu, healed"]}]
    labelled = labels_of(["no flu, healed"], findings=findings)
    assert labelled.manifest.labels().ravel().tolist() == [0]


def test_views_are_read_in_any_case():
    rows = raw({"view": "pa"}, {"view": " Ap Supine"}, {"view": "ll"})
    labelled = to_manifest(task(views=["PA", "AP Supine"]), rows)
    assert labelled.manifest.frame["view"].tolist() == ["PA", "AP Supine"]
    assert labelled.dropped == [Dropped("2", "view LL", "LL")]


def test_ids_of_one_patient_in_several_spellings_are_one():
    rows = raw(*({"patient_id": p} for p in ("12", "12.0", "ab", "AB", "7")))
    labelled = to_manifest(task(), rows)
    assert labelled.manifest.frame["patient_id"].tolist() == ["12", "12", "ab", "ab", "7"]
    assert labelled.manifest.frame["group"].nunique() == 3
    (notice,) = labelled.notices
    assert "2 patients" in notice
    assert "'12' and '12.0', 'ab' and 'AB'" in notice
    assert to_manifest(task(), raw({}, {"patient_id": "q"})).notices == ()


@pytest.mark.parametrize("column", ["age", "note", "finding"])
def test_missing_column_is_named(column):
    rows = raw({})
    rows.frame.drop(columns=column, inplace=True)
    with pytest.raises(ManifestError, match=rf"^{column}: the column is missing"):
        to_manifest(task(), rows)


def test_nothing_left_is_an_error_and_earlier_drops_are_kept():
    expected = r"no study is left of 2: 1 label .*\(as 0; found 'x'; expected flu or none\); 1 view"
    findings = [FINDINGS["binary"][0] | {"negative": ["none"]}]
    rows = raw({"finding": "x"}, {"view": "L"})
    with pytest.raises(ManifestError, match=expected):
        to_manifest(task(findings=findings, views=["PA"]), rows)
    labelled = to_manifest(task(), raw({}, dropped=[Dropped("x", "gone")]))
    assert labelled.dropped == [Dropped("x", "gone")]


@pytest.mark.parametrize(
    ("name", "studies", "positives"),
    [
        ("pneumonia", 5216 + 624, [3875 + 390]),
        ("pneumonia3", 5216 + 624, [1341 + 234, 2530 + 242, 1345 + 148]),
        ("effusion", 636, [98]),
        ("covid", 447, [348]),
        ("icu", 184, [138]),
        ("intubation", 190, [112]),
        ("icu_early", 67, [23]),
        ("intubation_early", 119, [45]),
    ],
)
def test_real_counts(data_root, tmp_path, name, studies, positives):
    shipped = load_task(name)
    labelled = to_manifest(shipped, read_source(shipped, data_root, tmp_path))
    assert len(labelled.manifest) == studies
    assert labelled.manifest.labels().sum(axis=0).tolist() == positives
    assert labelled.manifest.frame["image_path"].notna().all()
    if name == "covid":
        assert labelled.cleared == {("clinical.temperature", "out of range", "95"): 1}


def test_studies_outside_the_ages_are_left_out_with_the_cell():
    rows = raw({"age": "17"}, {"age": "18"}, {"age": "080Y"}, {"age": None}, {"age": "216M"})
    labelled = to_manifest(task(ages=[18, 79]), rows)
    assert labelled.manifest.frame["study_id"].tolist() == ["1", "4"]
    assert labelled.dropped == [
        Dropped("0", "age outside the range", "17"),
        Dropped("2", "age outside the range", "80"),
        Dropped("3", "age not known"),
    ]
    assert expected_cells(task(ages=[18, 79]))["age"] == "18 to 79 years"


@pytest.mark.parametrize(
    ("orders", "used"),
    [
        (["2", "10", "1"], ["2"]),  # as numbers, of which 10 is more than 2
        (["2020-02-01", "2019-12-30", "2020-01-01"], ["1"]),
        ([None, "3", None], ["1"]),
        ([None, None, None], ["0"]),
    ],
)
def test_the_first_study_of_each_patient_is_used(orders, used):
    rows = raw(*({"follow_up": order, "patient_id": "p"} for order in orders))
    labelled = to_manifest(task(first_by="follow_up"), rows)
    assert labelled.manifest.frame["study_id"].tolist() == used
    assert {d.reason for d in labelled.dropped} == {"a later study of the patient"}


def test_the_first_study_is_one_that_is_used_and_of_each_patient_there_is_one():
    rows = [("a", "1", "todo"), ("a", "2", "flu"), ("A", "3", "flu"), ("b", "9", "flu")]
    rows = raw(*({"patient_id": p, "n": n, "finding": f} for p, n, f in rows))
    labelled = to_manifest(task(first_by="n"), rows)
    assert labelled.manifest.frame["study_id"].tolist() == ["1", "3"]


@pytest.mark.parametrize("fields", [{"first_by": "date"}, {"ages": [18, 90], "clinical": []}])
def test_a_filter_needs_its_column(fields):
    rows = raw({"follow_up": "1"})
    with pytest.raises(ManifestError, match="the column is missing"):
        to_manifest(task(**fields), replace(rows, frame=rows.frame.drop(columns="age")))


def test_a_study_belongs_to_a_population_by_every_column_that_it_names():
    only = {"in_icu": ["N"], "view": ["PA", "AP"]}
    populations = [{"name": "before", "title": "Before", "only": only}]
    cells = [("N", "pa"), ("Y", "PA"), (None, "PA"), ("N", "LL"), ("N ", "AP"), ("N", None)]
    rows = raw(*({"in_icu": n, "view": v} for n, v in cells))
    labelled = to_manifest(task(populations=populations), rows)
    inside = labelled.manifest.frame["population.before"]
    assert inside.tolist() == [True, False, False, False, True, False]
    with pytest.raises(ManifestError, match="in_icu: the column is missing"):
        to_manifest(task(populations=populations), raw({}))


@pytest.mark.parametrize(("name", "early"), [("icu", 67), ("intubation", 119)])
def test_real_population_is_that_of_the_early_task(name, early, data_root, tmp_path):
    whole, before = (
        to_manifest(t, read_source(t, data_root, tmp_path)).manifest.frame
        for t in (load_task(name), load_task(f"{name}_early"))
    )
    inside = whole["population.not_yet"]
    assert inside.sum() == early
    assert whole["study_id"][inside].tolist() == before["study_id"].tolist()
    supine = whole["view"].eq("AP Supine")
    assert (whole["population.not_supine"] == ~supine).all()
