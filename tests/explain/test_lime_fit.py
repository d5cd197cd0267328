"""LIME over games whose answers are known."""

import numpy as np
import pytest

from cxr_mm.explain.estimators import coalitions, lime_fit
from tests.explain.test_shapley_values import Known


def test_a_linear_game_is_found_and_fits():
    weights = np.array([2.0, -1.0, 0.0, 0.5])
    fit = lime_fit(Known(4, lambda kept: kept @ weights + 1), samples=400, seed=0)
    np.testing.assert_allclose(fit.weights, weights, atol=0.05)
    assert fit.r2 > 0.99


def test_a_game_that_is_not_linear_says_so():
    parity = Known(8, lambda kept: kept.sum(1) % 2)
    assert lime_fit(parity, samples=400, seed=0).r2 < 0.2


def test_what_two_do_only_together_does_not_blur_what_each_does_alone():
    rng = np.random.default_rng(0)
    weights, pairs = rng.normal(size=40), rng.normal(size=(40, 40))

    def value(kept):
        sides = 2.0 * kept - 1
        return sides @ weights + 0.3 * np.einsum("ki,ij,kj->k", sides, pairs, sides)

    def missed(asked):
        centred = asked - asked.mean(0)
        found = np.linalg.lstsq(centred, value(asked) - value(asked).mean(), rcond=None)[0]
        return np.abs(found - 2 * weights).mean()

    uniform = rng.integers(0, 2, (128, 40)).astype(bool)
    assert missed(coalitions(129, 40, 0)[1:]) < 1e-9 < missed(uniform)


@pytest.mark.parametrize("players", [1, 2, 7, 8, 63, 64])
def test_each_player_is_in_every_second_coalition(players):
    drawn = coalitions(257, players, 0)
    assert drawn.shape == (257, players)
    assert drawn[0].all()
    np.testing.assert_array_equal(drawn[1::2], ~drawn[2::2])


def test_r2_is_of_coalitions_left_out():
    noise = np.random.default_rng(0)
    fit = lime_fit(Known(40, lambda kept: noise.normal(size=len(kept))), samples=129, seed=0)
    assert fit.r2 < 0


def test_same_seed_same_answer_and_another_differs_little():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=10)

    def fit(seed):
        return lime_fit(Known(10, lambda kept: np.tanh(kept @ weights)), 300, seed).weights

    np.testing.assert_array_equal(fit(1), fit(1))
    assert np.corrcoef(fit(1), fit(2))[0, 1] == pytest.approx(1, abs=0.1)
    assert np.abs(fit(1) - fit(2)).max() > 0
