"""Transportability summary: figures at the bundle's own thresholds, and how the studies differ."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.prediction import OperatingPoint
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.external.validate import (
    operating_points,
    read_traits,
    transportability,
)
from cxr_mm.evaluation.resampling import multiplicities
from cxr_mm.evaluation.subsets import measure_table, subset_rows

QUICK = EvaluateParams(bootstrap=100)


class Trained:
    """The parts of a bundle that the summary reads."""

    decision = "high_sensitivity"

    def __init__(self, task, **trained_on):
        self.task, self.trained_on = task, trained_on
        self.operating_points = {
            "image": {"effusion": points(0.5, 0.7)},
            "image+tabular+note": {"effusion": points(0.6, 0.8)},
        }


def points(youden, high):
    cuts = {"youden": youden, "high_sensitivity": high}
    return {
        reason: OperatingPoint(threshold=cut, reason=reason, sensitivity=cut, specificity=1 - cut)
        for reason, cut in cuts.items()
    }


@pytest.fixture
def task(task_of):
    return task_of()


@pytest.fixture
def table(task, table_of):
    """Predictions, every second one from the image alone."""
    table = table_of(task, n=100)
    table = table[table["subset"] == AVAILABLE].reset_index(drop=True)
    table["modalities"] = np.where(table.index % 2, "image", "image+tabular+note")
    return table


def test_each_study_is_decided_by_the_threshold_of_its_modalities(task, table):
    weights = multiplicities(table["group"], 100, 0)
    found = operating_points(Trained(task), table, "effusion", weights)
    assert list(found) == ["youden", "high_sensitivity"]
    assert [point["in_use"] for point in found.values()] == [False, True]
    known = table[table["label.effusion"].notna()]
    cut = np.where(known["modalities"] == "image", 0.7, 0.8)
    called = known["probability.effusion"] >= cut
    sick = known["label.effusion"] == 1
    sensitivity = found["high_sensitivity"]["sensitivity"]
    assert sensitivity["value"] == pytest.approx(called[sick].mean(), abs=1e-6)
    assert sensitivity["chosen_with"] == 0.75
    low, high = sensitivity["ci95"]
    assert low < sensitivity["value"] < high
    specificity = found["high_sensitivity"]["specificity"]
    assert specificity["value"] == pytest.approx(1 - called[~sick].mean(), abs=1e-6)
    assert specificity["chosen_with"] == 0.25


def test_a_task_without_thresholds_has_no_operating_points(task, table):
    bundle = Trained(task)
    bundle.operating_points = {}
    weights = multiplicities(table["group"], 100, 0)
    assert operating_points(bundle, table, "effusion", weights) == {}


@pytest.fixture
def look(task, table, tmp_path):
    def summarise(table, **trained_on):
        path = tmp_path / "centre.csv"
        ids = subset_rows(table, AVAILABLE)["study_id"]
        ages = np.arange(len(ids)) % 3 * 10
        frame = pd.DataFrame({"study_id": ids, "age": ages, "sex": "f", "view": ""})
        frame.to_csv(path, index=False)
        measured = measure_table(task, table, QUICK)
        return transportability(Trained(task, **trained_on), table, measured, path, QUICK)

    return summarise


def test_how_the_studies_differ(task, table, look):
    trained = {"studies": 5216, "missing": {"note": 0.2}}
    studies = look(table, profile=trained)["studies"]
    here = studies["here"]
    assert here["studies"] == 100
    assert here["missing"] == {"image": 0.0, "tabular": 0.5, "note": 0.5}
    assert here["traits"]["age"]["mean"] == pytest.approx(9.9)
    assert here["traits"]["sex"] == {"known": 100, "shares": {"F": 1.0}}
    assert here["traits"]["view"] == {"known": 0, "shares": {}}
    labels = table["label.effusion"]
    assert here["positive"]["effusion"] == pytest.approx(labels.mean(), abs=1e-4)
    assert studies["trained_on"] == trained


@pytest.mark.parametrize(
    ("skill", "words"),
    [(0.0, "no better than chance"), (-3.0, "the wrong way round"), (3.0, "")],
)
def test_a_model_that_knows_nothing_here_is_called_so(task, table, look, skill, words):
    rng = np.random.default_rng(0)
    logit = skill * (table["label.effusion"].fillna(0) - 0.5) + rng.normal(size=len(table))
    table["probability.effusion"] = 1 / (1 + np.exp(-logit))
    warnings = look(table)["warnings"]
    assert bool(warnings) == bool(words)
    if words:
        assert words in warnings[0]
        assert "recalibration cannot fix that" in warnings[0]


def test_traits_are_read_as_the_model_reads_them(task_of, tmp_path):
    path = tmp_path / "centre.csv"
    path.write_text("study_id,image_path,age,sex,view\nb,,058Y,m,\na,,18M,F,pa\n")
    image_only = task_of(modalities=1)
    traits = read_traits(image_only, path, ["a", "b"])
    assert traits["age"].tolist() == [1.5, 58.0]
    assert traits["sex"].tolist() == ["F", "M"]
    assert traits["view"].isna().tolist() == [False, True]
    path.write_text("study_id,age\na,unknown\nb,40\n")
    known = read_traits(task_of(modalities=2), path, ["b", "a"])["age"]
    assert known.iloc[0] == 40.0
    assert np.isnan(known.iloc[1])
