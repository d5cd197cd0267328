"""Operating points: the thresholds do what their reasons say."""

import numpy as np
import pytest

from cxr_mm.core.errors import StageError
from cxr_mm.models.decision import choose_operating_points

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


def test_youden_is_the_best_sum_of_both_where_probabilities_are_calibrated():
    chances = RNG.beta(0.8, 2.0, 200_000)
    labels = (RNG.random(len(chances)) < chances).astype(np.float32)
    best = choose_operating_points(labels, chances, 0.9, 0.9)["youden"]
    for cut in np.linspace(0.02, 0.98, 49):
        called = chances >= cut
        other = called[labels == 1].mean() - called[labels == 0].mean()
        assert other <= best.sensitivity + best.specificity - 1 + 0.002


def test_youden_varies_less_than_the_best_cut_of_a_small_sample():
    def thresholds(seed):
        chances = np.random.default_rng(seed).beta(0.8, 2.0, 60)
        labels = (np.random.default_rng(seed + 1000).random(60) < chances).astype(np.float32)
        ours = choose_operating_points(labels, chances, 0.9, 0.9)["youden"].threshold
        gains = [
            np.mean(chances[labels == 1] >= c) - np.mean(chances[labels == 0] >= c) for c in chances
        ]
        return ours, chances[int(np.argmax(gains))]

    ours, best = np.array([thresholds(seed) for seed in range(100)]).T
    assert ours.std() < 0.7 * best.std()


def test_missing_labels_count_for_nothing():
    labels = LABELS.copy()
    labels[::7] = np.nan
    point = choose_operating_points(labels, PROBABILITIES, 0.9, 0.9)["youden"]
    assert (point.sensitivity, point.specificity) == pytest.approx(rates(point.threshold, labels))


def test_one_class_alone_cannot_choose():
    with pytest.raises(StageError, match="same label"):
        choose_operating_points(np.ones(9, np.float32), np.linspace(0, 1, 9), 0.9, 0.9)
