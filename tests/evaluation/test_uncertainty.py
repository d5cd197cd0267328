"""Uncertainty: coverage counted by hand, intervals around it, and a Brier score that adds up."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.config import EvaluateParams
from cxr_mm.evaluation.metrics import Scored, counted
from cxr_mm.evaluation.resampling import multiplicities
from cxr_mm.evaluation.subsets import measure_table
from cxr_mm.evaluation.uncertainty import (
    brier_decomposition,
    class_uncertainty,
    finding_uncertainty,
)

SHARES = (
    "coverage",
    "coverage_present",
    "coverage_absent",
    "uncertain",
    "accuracy_when_certain",
    "sensitivity_when_certain",
    "specificity_when_certain",
)


def table(labels, words):
    names = [f"p{n}" for n in range(len(labels))]
    rows = {"label.x": labels, "certainty.x": words, "group": names, "coverage": 0.9}
    return pd.DataFrame(rows)


def weights(rows):
    return multiplicities(rows["group"], 100, 0)


def doubtful(task, found, level=0.8):
    """The table of predictions with a wide band of doubt around the threshold."""
    for name in task.finding_names:
        chance = found[f"probability.{name}"]
        sure = np.where(chance > 0.5, "present", "absent")
        found[f"certainty.{name}"] = np.where((chance - 0.5).abs() < 0.25, "uncertain", sure)
    return found.assign(coverage=level)


def test_shares_are_those_counted_by_hand():
    with_it = ["present", "present", "uncertain", "absent"]
    without = ["absent", "absent", "absent", "uncertain", "present"]
    rows = table([1] * 4 + [0] * 5 + [np.nan], [*with_it, *without, "present"])
    message = finding_uncertainty(rows, "x", weights(rows))
    values = {name: message[name]["value"] for name in SHARES}
    wanted = [7 / 9, 3 / 4, 4 / 5, 2 / 9, 5 / 7, 2 / 3, 3 / 4]
    assert values == pytest.approx(dict(zip(SHARES, wanted, strict=True)), abs=1e-6)
    assert message["target"] == 0.9
    low, high = message["coverage"]["ci95"]
    assert low < 7 / 9 < high


def test_what_is_not_defined_is_null_and_says_why():
    rows = table([0] * 10, ["uncertain"] * 10)
    message = finding_uncertainty(rows, "x", weights(rows))
    assert message["coverage"]["value"] == 1.0
    assert message["coverage"]["ci95"][1] == 1.0
    assert message["coverage"]["ci95"][0] == pytest.approx(0.7225, abs=1e-4)  # Wilson, 10 of 10
    assert message["coverage_present"] == {
        "value": None,
        "ci95": None,
        "reason": "no study has the finding",
    }
    assert message["accuracy_when_certain"]["reason"] == "no study is certain"
    rows = table([np.nan] * 3, ["present"] * 3)
    message = finding_uncertainty(rows, "x", weights(rows))
    assert message["uncertain"]["reason"] == "no study has a label"


def test_sets_of_classes_are_counted_by_class_and_size(task_of):
    task = task_of("multiclass")
    first, second, third = task.finding_names
    sets = [{first}, {first, second}, {second, third}, {first, second, third}, {third}]
    truth = [first, second, first, third, second]
    rows = pd.DataFrame({"group": list("abcde"), "coverage": 0.9}, index=range(5))
    for name in task.finding_names:
        rows[f"label.{name}"] = [float(t == name) for t in truth]
        rows[f"certainty.{name}"] = [
            "absent" if name not in s else "present" if len(s) == 1 else "uncertain" for s in sets
        ]
    rows.loc[5] = rows.loc[0]
    rows.loc[5, [f"label.{name}" for name in task.finding_names]] = np.nan
    message = class_uncertainty(task, rows, weights(rows))
    assert message["coverage"]["value"] == pytest.approx(3 / 5)
    assert {n: c["value"] for n, c in message["coverage_by_class"].items()} == {
        first: 0.5,
        second: 0.5,
        third: 1.0,
    }
    assert message["uncertain"]["value"] == pytest.approx(3 / 5)
    assert message["mean_set_size"]["value"] == pytest.approx(9 / 5)
    assert message["accuracy_when_certain"]["value"] == pytest.approx(1 / 2)
    assert message["target"] == 0.9


@pytest.mark.parametrize("bins", [2, 10, 500])
def test_the_terms_of_the_brier_score_add_up_to_it(bins):
    rng = np.random.default_rng(bins)
    chances = np.round(rng.random(400), 2)
    scored = Scored((rng.random(400) < chances**2).astype(float), chances, chances > 0.5)
    terms = brier_decomposition(scored, bins)
    total = terms["reliability"] - terms["resolution"] + terms["uncertainty"] + terms["within_bin"]
    assert total == pytest.approx(counted(scored)["brier"][0], abs=3e-6)
    if bins == 500:  # every value a bin of its own: nothing is hidden in one
        assert terms["within_bin"] == 0


def test_reliability_is_nought_and_resolution_all_where_every_answer_is_right():
    labels = np.repeat([0.0, 1.0], 50)
    assert brier_decomposition(Scored(labels, labels, labels > 0), 10) == {
        "reliability": 0.0,
        "resolution": 0.25,
        "uncertainty": 0.25,
        "within_bin": 0.0,
    }
    flat = brier_decomposition(Scored(labels, np.full(100, 0.8), labels > 0), 10)
    assert flat["resolution"] == 0.0
    assert flat["reliability"] == pytest.approx(0.09)
    none = np.zeros(0)
    assert set(brier_decomposition(Scored(none, none, none > 0), 10).values()) == {None}


def test_metrics_hold_both_for_every_subset_and_finding(task_of, table_of):
    params = EvaluateParams(bootstrap=100)
    task = task_of("multilabel")
    message = measure_table(task, doubtful(task, table_of(task)), params)
    for subset in message["subsets"].values():
        for figures in subset["findings"].values():
            assert figures["uncertainty"]["target"] == 0.8
            assert 0 < figures["uncertainty"]["uncertain"]["value"] < 1
            assert figures["brier_decomposition"]["uncertainty"] <= 0.25
    task = task_of("multiclass")
    message = measure_table(task, doubtful(task, table_of(task)), params)["subsets"]["image"]
    assert message["uncertainty"]["mean_set_size"]["ci95"]
    assert "uncertainty" not in message["findings"][task.finding_names[0]]


def test_predictions_that_rule_nothing_out_have_no_uncertainty(task_of, table_of):
    task = task_of()
    message = measure_table(task, table_of(task), EvaluateParams(bootstrap=100))
    figures = message["subsets"]["image"]["findings"]["effusion"]
    assert "uncertainty" not in figures
    assert figures["brier_decomposition"]["resolution"] > 0
