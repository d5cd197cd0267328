import numpy as np
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.evaluation.traits import band_names, read_traits

PARAMS = EvaluateParams()


@pytest.fixture
def manifest(task_of, table_of, manifest_of):
    task = task_of()
    return manifest_of(task, table_of(task))


def with_column(manifest, column, values):
    manifest.frame[column] = values
    return manifest


def test_bands_have_the_names_a_reader_expects():
    assert band_names() == ["0-17", "18-39", "40-59", "60-79", "80+"]


def test_ages_fall_into_their_bands(manifest):
    ages = [17.9, 18, 39, 40, 79.5, 80, np.nan]
    frame = manifest.frame
    frame.loc[: len(ages) - 1, "clinical.age"] = ages
    traits = read_traits(manifest, PARAMS, frame["study_id"][: len(ages)])
    found = traits.frame["age"].astype(object).tolist()
    assert found[:6] == ["0-17", "18-39", "18-39", "40-59", "60-79", "80+"]
    assert found[6] is np.nan or found[6] is None
    assert traits.levels("age") == ["0-17", "18-39", "40-59", "60-79", "80+"]


def test_small_sites_count_as_one(manifest):
    traits = read_traits(manifest, PARAMS, manifest.frame["study_id"])
    assert traits.levels("site")[-1] == "other (1 sites)"
    assert set(traits.levels("site")[:-1]) == {"North", "South"}


@pytest.mark.parametrize(
    ("column", "values", "name", "reason"),
    [
        ("site", None, "site", "the source does not give it"),
        ("site", [f"s{i}" for i in range(150)], "site", "none of 150 sites has 20 studies"),
        ("view", "AP", "view", "AP in all that are known"),
        ("clinical.age", np.nan, "age", "not known of any study"),
    ],
)
def test_what_forms_no_groups_is_said_with_the_reason(manifest, column, values, name, reason):
    traits = read_traits(with_column(manifest, column, values), PARAMS, manifest.frame["study_id"])
    assert traits.absent[name] == reason
    assert name not in traits.frame
    assert traits.absent["sex"] == "not in the task"


def test_bands_are_in_years_and_only_age_has_them(manifest):
    feature = manifest.task.clinical[0]
    weeks = feature.model_copy(update={"unit": "wk"})
    weight = ClinicalFeature(name="mass", title="M", type="number", minimum=0, maximum=9)
    task = manifest.task.model_copy(update={"clinical": (weeks, weight)})
    other = type(manifest)(task, manifest.frame.assign(**{"clinical.mass": 1.0}))
    params = PARAMS.model_copy(update={"characteristics": ("age", "mass")})
    absent = read_traits(other, params, manifest.frame["study_id"]).absent
    assert absent["age"] == "its unit is wk, bands are in years"
    assert absent["mass"] == "a number; only age has bands"


def test_rows_follow_the_studies_asked_for(manifest):
    ids = manifest.frame["study_id"].tolist()
    traits = read_traits(manifest, PARAMS, ids)
    requested = [ids[7], ids[2]]
    assert traits.of(requested)["view"].tolist() == [
        manifest.frame["view"][7],
        manifest.frame["view"][2],
    ]
