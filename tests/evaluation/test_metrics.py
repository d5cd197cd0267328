import time

import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.linear_model import LogisticRegression

from cxr_mm.evaluation.metrics import (
    METRICS,
    Scored,
    auc,
    average_precision,
    calibration_line,
    equal_mass_bins,
    expected_calibration_error,
    measure,
)

UNDEFINED_WITHOUT_NEGATIVES = {
    "auc",
    "average_precision",
    "balanced_accuracy",
    "specificity",
    "calibration_intercept",
    "calibration_slope",
}


def scored_of(seed, n=200, steps=None):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.3).astype(float)
    chances = 1 / (1 + np.exp(-(labels * 1.5 - 1 + rng.normal(size=n))))
    if steps:
        chances = np.round(chances * steps) / steps
    return Scored(labels, chances, chances >= 0.4)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("steps", [None, 20, 3])
def test_agrees_with_scikit_learn_ties_included(seed, steps):
    scored = scored_of(seed, steps=steps)
    y, p, called = scored.labels, scored.probabilities, scored.positives
    expected = {
        "auc": sk.roc_auc_score(y, p),
        "average_precision": sk.average_precision_score(y, p),
        "accuracy": sk.accuracy_score(y, called),
        "balanced_accuracy": sk.balanced_accuracy_score(y, called),
        "sensitivity": sk.recall_score(y, called),
        "specificity": sk.recall_score(1 - y, ~called),
        "ppv": sk.precision_score(y, called),
        "npv": sk.precision_score(1 - y, ~called),
        "f1": sk.f1_score(y, called),
        "brier": sk.brier_score_loss(y, p),
        "calibration_in_the_large": p.mean() - y.mean(),
    }
    figures = measure(scored)
    assert tuple(figures) == METRICS
    for name, value in expected.items():
        assert figures[name] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("steps", [None, 5])
def test_weights_are_repeated_rows(steps):
    scored = scored_of(1, n=60, steps=steps)
    weights = np.random.default_rng(2).integers(0, 4, size=(7, 60))
    figures = measure(scored, weights)
    for row, times in enumerate(weights):
        repeated = Scored(
            np.repeat(scored.labels, times),
            np.repeat(scored.probabilities, times),
            np.repeat(scored.positives, times),
        )
        alone = measure(repeated)
        # The bins of the calibration error stay where the sample put them, in every resample.
        for name in set(METRICS) - {"ece"}:
            assert figures[name][row] == pytest.approx(alone[name][0], abs=1e-7), name


def test_many_weightings_come_back_in_order_across_blocks():
    scored = scored_of(3, n=500)
    weights = np.random.default_rng(0).integers(0, 3, size=(700, 500))
    together = measure(scored, weights)
    for row in (0, 262, 263, 699):
        alone = measure(scored, weights[row : row + 1])
        for name in METRICS:
            assert together[name][row] == pytest.approx(alone[name][0], abs=1e-9)


def test_calibration_error_is_the_mean_gap_over_bins_of_equal_mass():
    scored = scored_of(4)
    which = equal_mass_bins(scored.probabilities)
    assert np.bincount(which).tolist() == [20] * 10
    gaps = [
        abs(scored.probabilities[which == b].mean() - scored.labels[which == b].mean())
        for b in range(10)
    ]
    assert expected_calibration_error(scored) == pytest.approx(np.mean(gaps))
    weights = np.arange(200)[None]
    by_hand = sum(
        abs((weights[0] * (scored.probabilities - scored.labels))[which == b].sum())
        for b in range(10)
    )
    assert expected_calibration_error(scored, weights) == pytest.approx(by_hand / weights.sum())


def test_equal_probabilities_share_a_bin():
    assert set(equal_mass_bins(np.full(30, 0.2), 10)) == {1}
    chances = np.repeat([0.1, 0.5, 0.9], [50, 3, 2])
    assert len(set(zip(chances, equal_mass_bins(chances, 10), strict=True))) == 3


def test_calibration_line_is_that_of_unpenalised_logistic_regression():
    scored = scored_of(5)
    x = np.log(scored.probabilities / (1 - scored.probabilities))
    model = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[:, None], scored.labels)
    intercept, slope = calibration_line(scored)
    assert slope == pytest.approx(model.coef_[0, 0], abs=1e-5)
    moved = 1 / (1 + np.exp(-(x + intercept[0])))
    assert moved.mean() == pytest.approx(scored.labels.mean(), abs=1e-9)


def test_calibration_line_finds_what_was_put_in():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20000)
    labels = (rng.random(20000) < 1 / (1 + np.exp(-(0.5 * x)))).astype(float)
    chances = 1 / (1 + np.exp(-x))
    _, slope = calibration_line(Scored(labels, chances, chances > 0.5))
    assert slope == pytest.approx(0.5, abs=0.05)


def test_calibration_line_of_separated_classes_is_not_defined():
    chances = np.array([0.1, 0.2, 0.3, 0.7, 0.8, 0.9])
    scored = Scored((chances > 0.5).astype(float), chances, chances > 0.5)
    assert np.isnan(calibration_line(scored)[1]).all()


def test_one_class_leaves_metrics_undefined_never_zero():
    only = Scored(np.ones(8), np.linspace(0.1, 0.9, 8), np.linspace(0.1, 0.9, 8) > 0.5)
    figures = measure(only)
    assert {n for n in METRICS if np.isnan(figures[n][0])} == UNDEFINED_WITHOUT_NEGATIVES | {
        n for n in ("npv",) if not (~only.positives).any()
    }
    none = Scored(np.zeros(8), only.probabilities, only.positives)
    undefined = {n for n in METRICS if np.isnan(measure(none)[n][0])}
    assert undefined >= {"auc", "average_precision", "sensitivity", "f1", "balanced_accuracy"}


def test_a_resample_without_a_class_is_undefined_alone():
    scored = scored_of(6, n=30)
    weights = np.stack([np.ones(30), 1 - scored.labels, scored.labels])
    for metric in (auc, average_precision):
        figures = metric(scored, weights)
        assert np.isnan(figures).tolist() == [False, True, True]


def test_no_study_at_all_is_undefined_everywhere():
    empty = Scored(np.zeros(0), np.zeros(0), np.zeros(0, dtype=bool))
    figures = measure(empty, np.zeros((3, 0)))
    assert all(np.isnan(values).all() and values.shape == (3,) for values in figures.values())


def test_missing_labels_are_left_out():
    labels = [1, np.nan, 0, 0, np.nan, 1]
    chances = [0.9, 0.0, 0.2, 0.4, 1.0, 0.7]
    scored, stored = Scored.known(labels, chances, np.array(chances) > 0.5)
    assert stored.tolist() == [True, False, True, True, False, True]
    assert len(scored) == 4
    assert scored.n_positive == 2
    assert measure(scored)["auc"] == 1.0


def test_a_thousand_resamples_of_eight_subsets_take_seconds():
    scored = scored_of(0, n=1000)
    weights = np.random.default_rng(0).multinomial(1000, np.full(1000, 1e-3), size=1000)
    start = time.process_time()
    measure(scored, weights)
    assert time.process_time() - start < 10 / 8
