"""Operating points: the thresholds do what their reasons say."""

import numpy as np
import pytest

from cxr_mm.errors import StageError
from cxr_mm.models.operating_point import choose_operating_points

RNG = np.random.default_rng(0)
LABELS = (RNG.random(500) < 0.3).astype(np.float32)
PROBABILITIES = np.clip(0.3 + 0.25 * LABELS + RNG.normal(0, 0.15, 500), 0, 1)


def rates(threshold, labels=LABELS):
    positive = threshold <= PROBABILITIES
    return positive[labels == 1].mean(), 1 - positive[labels == 0].mean()


def test_each_point_states_the_rates_it_has_where_it_was_chosen():
    for point in choose_operating_points(LABELS, PROBABILITIES, 0.9, 0.9).values():
        assert (point.sensitivity, point.specificity) == pytest.approx(rates(point.threshold))


def test_targets_are_reached_and_no_more_is_given_away_than_needed():
    points = choose_operating_points(LABELS, PROBABILITIES, 0.9, 0.95)
    assert points["high_sensitivity"].sensitivity >= 0.9
    assert rates(points["high_sensitivity"].threshold + 0.02)[0] < 0.9
    assert points["high_specificity"].specificity >= 0.95
    assert rates(points["high_specificity"].threshold - 0.02)[1] < 0.95


def test_youden_is_the_best_sum_of_both():
    best = choose_operating_points(LABELS, PROBABILITIES, 0.9, 0.9)["youden"]
    assert all(sum(rates(t)) <= sum(rates(best.threshold)) for t in np.linspace(0, 1, 200))


def test_missing_labels_count_for_nothing():
    labels = LABELS.copy()
    labels[::7] = np.nan
    point = choose_operating_points(labels, PROBABILITIES, 0.9, 0.9)["youden"]
    assert (point.sensitivity, point.specificity) == pytest.approx(rates(point.threshold, labels))


def test_one_class_alone_cannot_choose():
    with pytest.raises(StageError, match="same label"):
        choose_operating_points(np.ones(9, np.float32), np.linspace(0, 1, 9), 0.9, 0.9)
