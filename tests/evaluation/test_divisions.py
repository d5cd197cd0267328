"""Divisions: the mean over several, each resample of patients applied to all alike."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.subsets import measure_divisions, measure_table

PARAMS = EvaluateParams(bootstrap=200)


def test_one_division_has_no_mean(task_of, table_of):
    task = task_of()
    table = table_of(task, folds=5)
    assert measure_divisions(task, table, table.iloc[:0].assign(division=1), PARAMS) == {}


def test_of_equal_divisions_it_is_the_figure_of_one(task_of, table_of):
    task = task_of()
    table = table_of(task, folds=5)
    found = measure_divisions(task, table, table.assign(division=2), PARAMS)
    one = measure_table(task, table, PARAMS)
    assert found["count"] == 2
    assert set(found["subsets"]) == set(one["subsets"])
    for subset, figures in found["subsets"].items():
        assert figures["n"] == one["subsets"][subset]["n"]
        for finding, metrics in figures["findings"].items():
            for name, estimate in metrics.items():
                single = one["subsets"][subset]["findings"][finding][name]
                assert estimate["value"] == single["value"]
                # The mean is resampled; figures of one division have limits by formula, which are
                # wider for the calibration error.
                wide = 0.1 if name == "ece" else 0.05
                assert estimate["ci95"] == pytest.approx(single["ci95"], abs=wide)
    for finding, gain in found["fusion_gain"]["findings"].items():
        assert gain["difference"] == one["fusion_gain"]["findings"][finding]["difference"]


def test_of_different_ones_it_is_their_mean_and_no_studies_are_gained(task_of, table_of):
    task = task_of()
    table = table_of(task, folds=5)
    worse = table.copy()
    rng = np.random.default_rng(0)
    for finding in task.finding_names:
        worse[f"probability.{finding}"] = rng.random(len(table))
    found = measure_divisions(task, table, worse.assign(division=2), PARAMS)
    finding = task.finding_names[0]
    aucs = [
        measure_table(task, t, PARAMS)["subsets"]["available"]["findings"][finding]["auc"]["value"]
        for t in (table, worse)
    ]
    mean = found["subsets"]["available"]["findings"][finding]["auc"]
    assert mean["value"] == pytest.approx(sum(aucs) / 2, abs=1e-6)
    assert mean["ci95"][0] < mean["value"] < mean["ci95"][1]
    again = pd.concat([worse.assign(division=2), worse.assign(division=3)])
    assert measure_divisions(task, table, again, PARAMS)["count"] == 3
