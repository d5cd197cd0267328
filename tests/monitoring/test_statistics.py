"""The statistics against the libraries' or the textbook's own."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import energy_distance

from monitoring.statistics import anderson_darling, energy, hellinger

RNG = np.random.default_rng(3)


def sides(m, n):
    present = np.arange(m + n) >= n
    return present[None].astype(float), (~present)[None].astype(float)


def test_anderson_darling_is_the_integral_over_the_pooled_ranks():
    x, y = np.round(RNG.normal(size=40), 1), np.round(RNG.normal(0.5, 2, size=70), 1)
    pooled = np.concatenate([y, x])
    expected = 0.0
    for value in np.unique(pooled)[:-1]:
        f, g, h = (np.mean(s <= value) for s in (x, y, pooled))
        expected += (f - g) ** 2 / (h * (1 - h)) * np.mean(pooled == value)
    found = anderson_darling(pooled, *sides(40, 70))[0]
    assert found == pytest.approx(np.sqrt(40 * 70 / 110 * expected))


def test_energy_is_that_of_the_points():
    x, y = RNG.normal(size=(30, 3)), RNG.normal(1, 1, size=(50, 3))
    separate = 2 * cdist(x, y).mean() - cdist(x, x).mean() - cdist(y, y).mean()
    found = energy(np.concatenate([y, x]), *sides(30, 50))[0]
    assert found == pytest.approx(np.sqrt(30 * 50 / 80 * separate), rel=1e-3)
    line = energy(np.concatenate([y, x])[:, :1], *sides(30, 50))[0] ** 2 * 80 / (30 * 50)
    assert line == pytest.approx(energy_distance(x[:, 0], y[:, 0]) ** 2, rel=1e-3)


def test_hellinger_of_two_shares():
    codes = np.array([0] * 6 + [1] * 4 + [0] * 1 + [1] * 4)
    gap = (np.sqrt(0.2) - np.sqrt(0.6)) ** 2 + (np.sqrt(0.8) - np.sqrt(0.4)) ** 2
    found = hellinger(codes, *sides(5, 10))[0]
    assert found == pytest.approx(2 * np.sqrt(50 / 15 * gap))


@pytest.mark.parametrize("size", [30, 300])
def test_null_hardly_depends_on_the_window_size(size):
    values = RNG.normal(size=600 + size)
    order = [RNG.permutation(600 + size) for _ in range(300)]
    current = np.array([o < size for o in order], float)
    found = anderson_darling(values, current, 1 - current)
    assert found.mean() == pytest.approx(0.94, abs=0.06)


def test_empty_side_is_no_distance():
    nothing, all_ = np.zeros((1, 4)), np.ones((1, 4))
    assert anderson_darling(np.arange(4.0), nothing, all_)[0] == 0
    assert hellinger(np.arange(4), all_, nothing)[0] == 0
    assert energy(np.eye(4), nothing, all_)[0] == 0
