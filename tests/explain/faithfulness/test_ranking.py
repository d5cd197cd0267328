"""Ranking: a true order beats chance, a reversed one loses; sizes have a Gini index."""

import numpy as np
import pytest

from cxr_mm.explain.faithfulness.metrics import (
    agreement,
    degraded,
    deletion_and_insertion,
    gini,
)
from tests.explain.test_shapley_values import Known

WEIGHTS = np.arange(20.0)


def game():
    return Known(20, lambda kept: kept @ WEIGHTS)


def test_the_true_order_beats_chance_both_ways_and_the_reverse_loses():
    true = deletion_and_insertion(game(), WEIGHTS, seed=0)
    reverse = deletion_and_insertion(game(), -WEIGHTS, seed=0)
    assert true["deletion"] > 20
    assert true["insertion"] > 20
    assert reverse["deletion"] < -20
    assert reverse["insertion"] < -20


def test_a_share_of_the_scores_changes_place_and_none_is_lost():
    scores = np.arange(100.0)
    for share in (0, 0.25, 1):
        worse = degraded(scores, share, np.random.default_rng(0))
        assert sorted(worse) == sorted(scores)
        moved = np.mean(worse != scores)
        assert share - 0.05 <= moved <= share


def test_the_more_of_an_order_is_shuffled_the_less_it_gains():
    rng, shares = np.random.default_rng(0), (0, 0.25, 0.5, 0.75, 1)
    for figure in ("deletion", "insertion"):
        means = [
            np.mean([deletion_and_insertion(game(), s, 0)[figure] for s in drawn])
            for drawn in ([degraded(WEIGHTS, share, rng) for _ in range(40)] for share in shares)
        ]
        assert sorted(means, reverse=True) == means


def test_knowing_nothing_gains_nothing():
    flat = [deletion_and_insertion(game(), np.zeros(20), seed)["deletion"] for seed in range(200)]
    assert np.mean(flat) == pytest.approx(0, abs=4 * np.std(flat) / 200**0.5)


@pytest.mark.parametrize("players", [2, 3])
def test_few_parts_are_enough(players):
    few = Known(players, lambda kept: kept[:, 0])
    found = deletion_and_insertion(few, np.arange(players, 0, -1.0), seed=1)
    assert found["insertion"] >= 0
    assert found["deletion"] >= 0


def test_gini():
    assert gini(np.ones(10)) == pytest.approx(0)
    assert gini(np.eye(10)[0] * -3) == pytest.approx(0.9)
    assert gini(np.zeros(10)) == 0


def test_agreement():
    values = np.array([3.0, 1.0, 2.0])
    assert agreement(values, values * 5) == pytest.approx(1)
    assert agreement(values, -values) == pytest.approx(-1)
    assert agreement(values, np.zeros(3)) is None
