"""Shortcuts: what is put in is found, and what is not is not."""

from dataclasses import replace

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.shortcuts import Audited, audit_shortcuts, within_strata
from cxr_mm.evaluation.subsets import subset_rows
from cxr_mm.evaluation.traits import read_traits

PARAMS = EvaluateParams(bootstrap=100)
F = "effusion"


def audited(manifest, embedding=None, quality=None):
    groups = manifest.frame["group"].to_numpy(object)
    traits = read_traits(manifest, PARAMS, manifest.frame["study_id"])
    return Audited(manifest, groups, embedding, quality, traits)


@pytest.fixture
def case(task_of, table_of, manifest_of):
    task = task_of()
    table = table_of(task, n=300)
    return task, table, manifest_of(task, table)


def test_the_trait_in_the_embedding_is_read_and_no_other(case):
    task, table, manifest = case
    embedding = np.random.default_rng(0).normal(size=(300, 20))
    embedding[:, 3] += 3 * (manifest.frame["view"] == "PA")
    found = audit_shortcuts(task, table, audited(manifest, embedding), PARAMS)["embedding"]
    (view,) = found["traits"]["view"]["levels"].values()
    assert view["auc"]["ci95"][0] > 0.9
    assert set(found["traits"]["age"]["levels"]) == {"0-17", "18-39", "40-59", "60-79", "80+"}
    for measured in found["traits"]["age"]["levels"].values():
        assert measured["auc"]["value"] is None or 0.3 < measured["auc"]["value"] < 0.7


def test_studies_without_a_image_are_not_read(case):
    task, table, manifest = case
    manifest.frame.loc[:99, "pixel_row"] = -1
    embedding = np.random.default_rng(0).normal(size=(300, 4))
    found = audit_shortcuts(task, table, audited(manifest, embedding), PARAMS)["embedding"]
    assert found["studies"] == 200
    (view,) = found["traits"]["view"]["levels"].values()
    assert view["of"] == 200


def test_a_view_that_tells_the_finding_is_shown_beside_the_model(case):
    task, table, manifest = case
    label = manifest.frame[f"finding.{F}"]
    rng = np.random.default_rng(1)
    manifest.frame["view"] = np.where((label == 1) ^ (rng.random(300) < 0.02), "AP", "PA")
    quality = rng.random((300, 8))
    found = audit_shortcuts(task, table, audited(manifest, None, quality), PARAMS)
    assert found["embedding"]["reason"] == "the task has no images"
    measured = found["alone"][F]
    assert list(measured) == ["view", "site", "image quality", "view + site + image quality"]
    rows = subset_rows(table, "available")
    rows = rows[rows[f"label.{F}"].notna()]
    model = roc_auc_score(rows[f"label.{F}"], rows[f"probability.{F}"])
    assert measured["view"]["model_auc"]["value"] == pytest.approx(model, abs=1e-6)
    assert measured["view"]["auc"]["value"] > 0.9
    assert measured["view"]["model_minus_this"]["ci95"][1] < 0
    assert 0.35 < measured["image quality"]["auc"]["value"] < 0.65
    assert measured["image quality"]["model_minus_this"]["ci95"][0] > 0
    assert measured["view + site + image quality"]["auc"]["value"] > 0.85


def test_the_strongest_statistic_is_named(case):
    task, table, manifest = case
    quality = np.random.default_rng(2).random((300, 8))
    quality[:, 3] -= np.nan_to_num(manifest.frame[f"finding.{F}"])
    found = audit_shortcuts(task, table, audited(manifest, None, quality), PARAMS)
    strongest = found["alone"][F]["image quality"]["strongest"]
    assert strongest["name"] == "noise"
    assert strongest["auc"] > 0.95


def test_auc_within_strata_compares_only_pairs_of_one_stratum(case):
    _, table, manifest = case
    rows = subset_rows(table, "available")
    strata = manifest.frame.set_index("study_id")["view"]
    measured = within_strata(F, rows, strata, PARAMS)
    label, p = rows[f"label.{F}"].to_numpy(), rows[f"probability.{F}"].to_numpy()
    view = strata.loc[rows["study_id"]].to_numpy()
    yes, no = np.flatnonzero(label == 1), np.flatnonzero(label == 0)
    pairs = [(i, j) for i in yes for j in no if view[i] == view[j]]
    won = [float(p[i] > p[j]) + 0.5 * float(p[i] == p[j]) for i, j in pairs]
    assert measured["adjusted"]["value"] == pytest.approx(np.mean(won), abs=1e-6)
    known = np.isfinite(label)
    pooled = roc_auc_score(label[known], p[known])
    assert measured["pooled"]["value"] == pytest.approx(pooled, abs=1e-6)


@pytest.mark.parametrize("column", ["view", "site", "publisher"])
def test_a_model_that_only_knows_where_an_image_is_from_has_no_auc_within_it(case, column):
    task, table, manifest = case
    label = manifest.frame[f"finding.{F}"]
    rng = np.random.default_rng(3)
    manifest.frame[column] = np.where((label == 1) ^ (rng.random(300) < 0.2), "AP", "PA")
    level = manifest.frame.set_index("study_id")[column]
    table[f"probability.{F}"] = np.where(table["study_id"].map(level) == "AP", 0.8, 0.2)
    measured = audit_shortcuts(task, table, audited(manifest), PARAMS)["alone"][F][column]
    assert measured["auc"]["value"] > 0.7
    assert measured["within"]["adjusted"]["value"] == 0.5
    assert measured["within"]["pooled_minus_adjusted"]["ci95"][0] > 0.2


def test_a_model_that_only_knows_the_quality_has_hardly_any_auc_within_its_fifths(case):
    task, table, manifest = case
    quality = np.random.default_rng(4).normal(size=(300, 8))
    quality[:, 2] += 2 * np.nan_to_num(manifest.frame[f"finding.{F}"])
    sharpness = dict(zip(manifest.frame["study_id"], quality[:, 2], strict=True))
    table[f"probability.{F}"] = 1 / (1 + np.exp(-table["study_id"].map(sharpness)))
    found = audit_shortcuts(task, table, audited(manifest, None, quality), PARAMS)
    within = found["alone"][F]["image quality"]["within"]
    assert list(within["strata"]) == [f"{k} of 5" for k in range(1, 6)]
    assert within["pooled"]["value"] > 0.85
    assert within["adjusted"]["value"] < within["pooled"]["value"] - 0.1


def test_one_view_has_no_strata(case):
    task, table, manifest = case
    manifest.frame["view"] = "AP"
    assert "view" not in audit_shortcuts(task, table, audited(manifest), PARAMS)["alone"][F]


def test_burnt_in_text_that_tells_the_finding_is_shown(case):
    task, table, manifest = case
    label = manifest.frame[f"finding.{F}"].to_numpy()
    text = (label == 1) ^ (np.random.default_rng(5).random(300) < 0.2)
    studies = replace(audited(manifest), text=text)
    found = audit_shortcuts(task, table, studies, PARAMS)["alone"][F]["burnt-in text"]
    assert 0.7 < found["auc"]["value"] < 0.9
    assert set(found["within"]["strata"]) == {"text", "no text"}


def test_images_all_of_which_have_text_tell_nothing_by_it(case):
    task, table, manifest = case
    studies = replace(audited(manifest), text=np.ones(300, dtype=bool))
    assert "burnt-in text" not in audit_shortcuts(task, table, studies, PARAMS)["alone"][F]
