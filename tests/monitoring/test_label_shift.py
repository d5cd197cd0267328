"""Prevalence is found and named where nothing but prevalence changed."""

import numpy as np
import pandas as pd
import pytest

from monitoring.shift_tests import label_shift
from monitoring.verdict import evaluate_window
from tests.monitoring.conftest import whole


def pool(window, seed, share):
    """A window with another share of positives, and studies of each class as before."""
    table = window(1200, seed, labelled=True)
    rng = np.random.default_rng(seed)
    yes, no = (np.flatnonzero(table["label.pneumonia"] == label) for label in (1, 0))
    positives = round(200 * share)
    rows = np.concatenate(
        [rng.choice(yes, positives, replace=False), rng.choice(no, 200 - positives, replace=False)]
    )
    return table.iloc[rows].reset_index(drop=True)


@pytest.mark.parametrize("share", [0.15, 0.85])
def test_a_new_prevalence_is_estimated_and_blamed(window, frozen, share):
    table = pool(window, 31, share)
    shift = label_shift(table, frozen.table, frozen.task)
    assert shift.before["pneumonia"] == pytest.approx(0.5, abs=0.1)
    assert shift.after["pneumonia"] == pytest.approx(share, abs=0.12)
    unlabelled = table.assign(**{"label.pneumonia": np.nan})
    verdict = evaluate_window(whole(unlabelled), frozen).verdict
    assert verdict.status == "alarm"
    assert verdict.reasons[0].name == "prevalence"


def test_moved_inputs_are_not_blamed_on_prevalence(window, frozen):
    verdict = evaluate_window(whole(window(200, 32, age=1.0)), frozen).verdict
    assert "prevalence" not in {reason.name for reason in verdict.reasons}


def test_weights_count_as_many_rows_as_vary_like_them(window, frozen):
    weights = label_shift(pool(window, 33, 0.8), frozen.table, frozen.task).weights
    assert weights.sum() == pytest.approx(weights.sum() ** 2 / (weights**2).sum())
    assert weights.sum() < len(frozen.table)


def test_without_labels_of_both_classes_nothing_is_said(window, frozen):
    one_class = frozen.table.assign(**{"label.pneumonia": 1.0})
    assert label_shift(window(50, 1), one_class, frozen.task) is None


def test_classes_that_exclude_one_another_are_estimated_together(frozen):
    names = ("normal", "bacterial", "viral")
    findings = tuple(frozen.task.findings[0].model_copy(update={"name": n}) for n in names)
    task = frozen.task.model_copy(update={"findings": findings, "problem": "multiclass"})
    rng = np.random.default_rng(0)

    def table(shares, n):
        label = rng.choice(3, n, p=shares)
        result = rng.dirichlet(np.ones(3), n) + 2 * np.eye(3)[label]
        result /= result.sum(axis=1, keepdims=True)
        data = {f"label.{n}": (label == k).astype(float) for k, n in enumerate(names)}
        data |= {f"probability.{n}": result[:, k] for k, n in enumerate(names)}
        return pd.DataFrame(data)

    shift = label_shift(table((0.2, 0.2, 0.6), 400), table((0.5, 0.3, 0.2), 600), task)
    assert list(shift.after.values()) == pytest.approx([0.2, 0.2, 0.6], abs=0.08)
