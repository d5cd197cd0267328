"""Subgroups: the figures are those of their studies, and nothing small is hidden."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.subgroups import METRICS, measure_subgroups
from cxr_mm.evaluation.subsets import subset_rows
from cxr_mm.evaluation.traits import read_traits

PARAMS = EvaluateParams(bootstrap=100)
F = "effusion"


def measured(task, table, manifest, params=PARAMS):
    traits = read_traits(manifest, params, manifest.frame["study_id"])
    return measure_subgroups(task, table, traits, params)


@pytest.fixture
def case(task_of, table_of, manifest_of):
    task = task_of()
    table = table_of(task, n=400)
    return task, table, manifest_of(task, table)


def test_figures_are_those_of_the_groups_studies(case):
    task, table, manifest = case
    found = measured(task, table, manifest)
    rows = subset_rows(table, "available")
    view = rows["study_id"].map(manifest.frame.set_index("study_id")["view"])
    known = rows[f"label.{F}"].notna()
    for level, group in found["findings"][F]["view"]["groups"].items():
        part = rows[known & (view == level)]
        yes, called = part[f"label.{F}"] == 1, part[f"positive.{F}"]
        assert group["n"] == len(part)
        assert group["positives"] == yes.sum()
        assert group["patients"] == part["patient_id"].nunique()
        assert group["fnr"]["value"] == pytest.approx((yes & ~called).sum() / yes.sum(), abs=1e-6)
        assert group["fpr"]["value"] == pytest.approx(
            (~yes & called).sum() / (~yes).sum(), abs=1e-6
        )
        expected = roc_auc_score(yes, part[f"probability.{F}"])
        assert group["auc"]["value"] == pytest.approx(expected, abs=1e-6)
        for metric in METRICS:
            low, high = group[metric]["ci95"]
            assert low <= group[metric]["value"] <= high


def test_every_characteristic_and_every_two_of_them(case):
    found = measured(*case)
    names = ["age", "view", "site"]
    pairs = ["age × view", "age × site", "view × site"]
    assert list(found["findings"][F]) == names + pairs
    assert found["absent"] == {"sex": "not in the task"}
    for by in names:
        groups = found["findings"][F][by]["groups"]
        assert sum(g["n"] for g in groups.values()) == case[1][f"label.{F}"].notna().sum() / 8
    crossed = found["findings"][F]["view × site"]["groups"]
    assert "PA, North" in crossed
    assert crossed["PA, North"]["n"] < found["findings"][F]["view"]["groups"]["PA"]["n"]


def test_small_groups_are_listed_without_figures(case):
    task, table, manifest = case
    rare = manifest.frame["study_id"].isin(manifest.frame["study_id"][:9])
    manifest.frame.loc[~rare, "view"] = "PA"
    manifest.frame.loc[rare, "view"] = "AP"
    groups = measured(task, table, manifest)["findings"][F]["view"]["groups"]
    assert groups["AP"]["few"].startswith("too few: ")
    assert all(groups["AP"][metric]["value"] is None for metric in METRICS)
    assert "few" not in groups["PA"]


def test_a_class_with_few_patients_takes_only_its_own_figures(case):
    task, table, manifest = case
    old = manifest.frame["clinical.age"] >= 80
    ids = manifest.frame.loc[old, "study_id"]
    table.loc[table["study_id"].isin(ids), f"label.{F}"] = 0.0
    groups = measured(task, table, manifest)["findings"][F]["age"]["groups"]
    assert groups["80+"]["few"] == "too few: 0 patients with it"
    assert groups["80+"]["fnr"]["value"] is None
    assert groups["80+"]["auc"]["value"] is None
    assert groups["80+"]["fpr"]["ci95"] is not None


def test_an_injected_gap_is_flagged_and_survives(case):
    task, table, manifest = case
    pa = set(manifest.frame.loc[manifest.frame["view"] == "PA", "study_id"])
    missed = table["study_id"].isin(pa) & (table[f"label.{F}"] == 1)
    rng = np.random.default_rng(0)
    table.loc[missed & (rng.random(len(table)) < 0.9), f"positive.{F}"] = False
    found = measured(task, table, manifest)
    (flag,) = [f for f in found["flags"] if (f["by"], f["metric"]) == ("view", "fnr")]
    assert (flag["higher"], flag["lower"]) == ("PA", "AP")
    assert flag["ci95"][0] > 0
    assert flag["survives_correction"]
    tested = [
        gap
        for by in ("age", "view", "site")
        for gap in found["findings"][F][by]["gaps"].values()
        if gap["value"] is not None
    ]
    assert found["tests"]["characteristics"] == len(tested) >= 6


def test_without_gaps_there_are_few_flags_and_corrected_p_is_larger(case):
    found = measured(*case)
    assert not [f for f in found["flags"] if f["survives_correction"] and not f["crossed"]]
    for division in found["findings"][F].values():
        for gap in division["gaps"].values():
            assert gap["value"] is None or gap["p_holm"] >= gap["p"]


def test_studies_of_unknown_level_are_counted_apart(case):
    task, table, manifest = case
    manifest.frame.loc[:49, "view"] = None
    found = measured(task, table, manifest)
    assert found["characteristics"]["view"]["unknown"] == 50
    both = found["findings"][F]["age × view"]["groups"]
    known = manifest.frame.merge(subset_rows(table, "available"), on="study_id")
    known = known[known["view"].notna() & known[f"label.{F}"].notna()]
    assert sum(g["n"] for g in both.values()) == len(known)


def test_multiclass_and_nothing_known(task_of, table_of, manifest_of):
    task = task_of("multiclass", modalities=1)
    table = table_of(task)
    manifest = manifest_of(task, table)
    manifest.frame[["view", "site"]] = None
    found = measured(task, table, manifest)
    assert found["findings"] == {name: {} for name in task.finding_names}
    assert set(found["absent"]) == {"age", "sex", "view", "site"}
    assert found["flags"] == []
