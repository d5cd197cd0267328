"""Predicted prevalence, rejected images, and label shift as an explanation."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import fisher_exact, norm

from monitoring.shift_tests import label_shift, score_prevalence, score_rejected
from monitoring.statistics import normal_limit
from monitoring.verdict import evaluate_window
from tests.monitoring.conftest import whole


@pytest.mark.parametrize("size", [20, 200, 1500])
def test_undrifted_windows_exceed_the_limit_about_as_often_as_asked(window, frozen, size):
    limit = normal_limit(0.05)
    above = [
        score_prevalence(window(size, 900 + seed), frozen.table, ["pneumonia"]).score > limit
        for seed in range(40)
    ]
    assert np.mean(above) <= 0.15


def test_a_moved_mean_is_found_up_and_down_and_said(window, frozen):
    for shift in (-0.8, 0.8):
        found = score_prevalence(window(200, 5, logit_shift=shift), frozen.table, ["pneumonia"])
        assert found.score > normal_limit(0.005)
        assert (found.after["pneumonia"] > found.before["pneumonia"]) == (shift > 0)
        assert f"→ {100 * found.after['pneumonia']:.0f} %" in found.change


@pytest.mark.parametrize(("refused", "images"), [(0, 50), (3, 50), (20, 200)])
def test_the_score_is_that_of_fishers_test(refused, images):
    found = score_rejected(refused, images, 4, 300)
    table = [[refused, images - refused], [4, 296]]
    chance = fisher_exact(table, alternative="greater").pvalue
    assert norm.sf(found.score) == pytest.approx(chance, abs=1e-9)


def test_undrifted_windows_exceed_the_limit_no_more_often_than_asked():
    rng = np.random.default_rng(0)
    limit = normal_limit(0.05)
    above = []
    for _ in range(600):
        before, now = rng.binomial(300, 0.02), rng.binomial(100, 0.02)
        above.append(score_rejected(now, 100, before, 300).score > limit)
    assert np.mean(above) <= 0.05


def test_fewer_refused_are_no_reason_and_no_image_no_score():
    assert score_rejected(0, 100, 30, 300).score < 0
    assert score_rejected(0, 0, 4, 300) is None
    assert "4.0 % (2 of 50)" in score_rejected(2, 50, 4, 300).change


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
