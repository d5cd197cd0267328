"""Recalibration on tables: every figure "after" comes from patients it was not learnt from."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.types import AVAILABLE, subset_name, subsets
from cxr_mm.evaluation.external.recalibrate import (
    FOLDS,
    Targets,
    cross_validated,
    fit_recalibration,
    patient_folds,
    rarer_class,
    recalibrated,
    recalibration_gain,
)
from cxr_mm.evaluation.metrics import SMALLEST

TARGETS = Targets("youden", sensitivity=0.95, specificity=0.95, coverage=0.9)
QUICK = EvaluateParams(bootstrap=100)


@pytest.fixture
def external(task_of, table_of):
    """A table of an external site where probabilities are too high and too extreme."""

    def make(problem="binary", n=400, noise=2.0, **kinds):
        task = task_of(problem, **kinds)
        table = table_of(task, n=n, noise=noise)
        whole = subset_name(subsets(task.modalities)[-1])
        table["modalities"] = table["subset"].where(table["subset"] != AVAILABLE, whole)
        table["coverage"] = 0.9
        chances = table[[f"probability.{name}" for name in task.finding_names]].to_numpy()
        worse = 2 * np.log(chances / (1 - chances)) + 1.5
        for f, name in enumerate(task.finding_names):
            if problem != "multiclass":
                table[f"probability.{name}"] = 1 / (1 + np.exp(-worse[:, f]))
                table[f"positive.{name}"] = worse[:, f] >= 0
            table[f"threshold.{name}"] = np.nan if problem == "multiclass" else 0.5
            table[f"certainty.{name}"] = "uncertain"
        return task, table

    return make


def test_folds_keep_patients_whole_and_spread_labels(external):
    task, table = external()
    fold = patient_folds(task, table, seed=0)
    assert pd.Series(fold).groupby(table["group"]).nunique().max() == 1
    assert set(fold) == set(range(FOLDS))
    positive = table["label.effusion"].eq(1).groupby(table["group"]).max()
    dealt = pd.Series(fold).groupby(table["group"]).first()[positive]
    counts = dealt.value_counts()
    assert counts.max() - counts.min() <= 2
    assert (patient_folds(task, table, seed=1) != fold).any()


def test_what_is_wrong_is_mended_for_patients_not_learnt_from(external):
    task, table = external()
    found = fit_recalibration(task, table, TARGETS)
    assert set(found.updates) == set(subsets(task.modalities))
    after = cross_validated(task, table, found, TARGETS, seed=0)
    assert sorted(after["study_id"]) == sorted(table["study_id"])
    gains = recalibration_gain(task, table, after, QUICK)
    for subset in (AVAILABLE, "image", "image+tabular+note"):
        message = gains[subset]["effusion"]
        assert message["ece"]["difference"]["ci95"][1] < 0
        assert message["brier"]["difference"]["ci95"][1] < 0
        low, high = message["calibration_in_the_large"]["after"]["ci95"]
        assert low < 0 < high
        assert message["calibration_in_the_large"]["before"]["ci95"][0] > 0
        low, high = message["calibration_slope"]["after"]["ci95"]
        assert low < 1 < high
        assert message["auc"]["difference"]["value"] == pytest.approx(0, abs=0.01)
        assert message["coverage"]["before"]["value"] == 1
        assert 0.85 < message["coverage"]["after"]["value"] < 1
        assert message["uncertain"]["after"]["value"] < 1


def test_a_study_is_recalibrated_by_patients_other_than_its_own(external, monkeypatch):
    task, table = external(modalities=1)
    monkeypatch.setattr(
        "cxr_mm.evaluation.external.recalibrate.patient_folds",
        lambda task, table, seed: table["group"].str[1:].astype(int).to_numpy() % 5,
    )
    first = table["group"].str[1:].astype(int) % 5 == 0
    other = table.assign(**{"label.effusion": table["label.effusion"].where(~first, 1.0)})
    parts = []
    for version in (table, other):
        found = fit_recalibration(task, version, TARGETS)
        after = cross_validated(task, version, found, TARGETS, seed=0)
        parts.append(after.set_index(["study_id", "subset"])["probability.effusion"])
    own = table[first].set_index(["study_id", "subset"]).index
    pd.testing.assert_series_equal(parts[0][own], parts[1][own])
    assert (parts[0].drop(own) != parts[1].drop(own)).all()


def test_a_finding_that_does_not_fit_is_moved_in_every_subset(external):
    """Here the note alone has too few studies to show it."""
    task, table = external()
    alone = table["subset"] == "note"
    chances = table["probability.effusion"]
    right = 1 / (1 + np.exp(0.4 - (np.log(chances / (1 - chances)) - 1.5) / 2))
    table["probability.effusion"] = chances.where(~alone, right)
    few = ~alone | (table["study_id"] < "s0090")
    found = fit_recalibration(task, table[few], TARGETS)
    update = found.updates["note",]["effusion"]
    assert update.p_any > 0.05
    assert update.method == "intercept"
    assert abs(update.intercept) > 0.01


def test_rows_follow_what_they_were_shown(external):
    task, table = external()
    found = fit_recalibration(task, table, TARGETS)
    del found.updates["note",]
    after = recalibrated(task, table, found, "high_sensitivity")
    same = after["modalities"] == "note"
    pd.testing.assert_frame_equal(after[same], table[same])
    update = found.updates["image",]["effusion"]
    here = table["modalities"] == "image"
    odds = table.loc[here, "probability.effusion"]
    logit = update.intercept + update.slope * np.log(odds / (1 - odds))
    expected = 1 / (1 + np.exp(-logit))
    np.testing.assert_allclose(after.loc[here, "probability.effusion"], expected, rtol=1e-9)
    cut = found.points["image"]["effusion"]["high_sensitivity"].threshold
    assert set(after.loc[here, "threshold.effusion"]) == {cut}
    assert (after.loc[here, "positive.effusion"] == (expected >= cut)).all()
    # `available` of a study with all modalities is its row of all modalities.
    pairs = after[after["modalities"] == "image+tabular+note"]
    assert pairs.groupby("study_id")["probability.effusion"].nunique().max() == 1


def test_classes_of_a_multiclass_task_stay_a_distribution(external):
    task, table = external("multiclass")
    found = fit_recalibration(task, table, TARGETS)
    after = cross_validated(task, table, found, TARGETS, seed=0)
    chances = after[[f"probability.{name}" for name in task.finding_names]].to_numpy()
    np.testing.assert_allclose(chances.sum(axis=1), 1)
    positives = after[[f"positive.{name}" for name in task.finding_names]].to_numpy(bool)
    assert (positives.sum(axis=1) == 1).all()
    assert found.points == {}
    assert set(found.bounds["image"]) == set(task.finding_names)
    gains = recalibration_gain(task, table, after, QUICK)[AVAILABLE]
    assert set(gains) == set(task.finding_names)
    assert "coverage" not in gains["normal"]


def test_a_finding_with_too_few_patients_is_left_and_said_so(external):
    task, table = external("multilabel")
    few = table["study_id"].isin([f"s{i:04d}" for i in range(12)])
    table["label.consolidation"] = few.astype(float)
    found = fit_recalibration(task, table, TARGETS)
    assert set(found.updates["image",]) == {"effusion"}
    reason = found.left["image"]["consolidation"]
    assert reason.endswith(f"patients of the rarer class, {SMALLEST} needed")
    after = cross_validated(task, table, found, TARGETS, seed=0).set_index(["study_id", "subset"])
    before = table.set_index(["study_id", "subset"])
    columns = [c for c in table.columns if c.endswith(".consolidation")]
    pd.testing.assert_frame_equal(after[columns], before[columns], check_like=True)


def test_patients_are_counted_not_their_images(external):
    task, table = external(modalities=1)
    table["group"] = np.where(table["label.effusion"] == 1, "p1", table["group"])
    assert rarer_class(task, table, "effusion") == 1
    assert not fit_recalibration(task, table, TARGETS)


@pytest.mark.parametrize("label", [0.0, 1.0, np.nan])
def test_one_class_alone_changes_nothing(external, label):
    task, table = external(modalities=1)
    table["label.effusion"] = label
    found = fit_recalibration(task, table, TARGETS)
    assert not found
    assert found.left == {"image": {"effusion": "0 patients of the rarer class, 20 needed"}}


def test_the_rarest_class_decides_for_all(external):
    task, table = external("multiclass")
    normal = table["label.normal"] == 1
    stored = table[~normal | (table["study_id"] < "s0040")]
    assert rarer_class(task, stored, "effusion") == rarer_class(task, stored, "normal") < SMALLEST
    assert not fit_recalibration(task, stored, TARGETS)
