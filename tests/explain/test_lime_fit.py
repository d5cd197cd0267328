"""LIME over games whose answers are known."""

import numpy as np
import pytest

from cxr_mm.explain.lime_fit import lime_fit
from tests.explain.test_shapley_values import Known


def test_a_linear_game_is_found_and_fits():
    weights = np.array([2.0, -1.0, 0.0, 0.5])
    fit = lime_fit(Known(4, lambda kept: kept @ weights + 1), samples=400, seed=0)
    np.testing.assert_allclose(fit.weights, weights, atol=0.05)
    assert fit.r2 > 0.99


def test_a_game_that_is_not_linear_says_so():
    parity = Known(8, lambda kept: kept.sum(1) % 2)
    assert lime_fit(parity, samples=400, seed=0).r2 < 0.2


def test_same_seed_same_answer_and_another_differs_little():
    rng = np.random.default_rng(0)
    weights = rng.normal(size=10)

    def fit(seed):
        return lime_fit(Known(10, lambda kept: np.tanh(kept @ weights)), 300, seed).weights

    np.testing.assert_array_equal(fit(1), fit(1))
    assert np.corrcoef(fit(1), fit(2))[0, 1] == pytest.approx(1, abs=0.1)
    assert np.abs(fit(1) - fit(2)).max() > 0
