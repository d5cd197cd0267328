"""The statistics against the libraries' or the textbook's own."""

import numpy as np
import pytest
from scipy.spatial.distance import cdist
from scipy.stats import chi2_contingency, energy_distance, fisher_exact, hypergeom, norm

from monitoring.statistics import anderson_darling, energy, exact_chi

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


def test_exact_chi_of_two_categories_is_the_score_of_fishers_exact_test():
    codes = np.array([0] * 6 + [1] * 4 + [0] * 1 + [1] * 4)
    chance = fisher_exact([[1, 4], [6, 4]], alternative="less").pvalue
    assert exact_chi(codes, *sides(5, 10))[0] == pytest.approx(norm.isf(chance))


def test_exact_chi_of_many_rows_is_pearsons():
    codes = np.repeat([0, 1, 2] * 2, [3000, 5000, 2000, 2100, 3400, 1500])
    table = [[2100, 3400, 1500], [3000, 5000, 2000]]
    expected = chi2_contingency(table, correction=False).statistic
    assert exact_chi(codes, *sides(7000, 10_000))[0] == pytest.approx(np.sqrt(expected), rel=0.02)


@pytest.mark.parametrize("share", [0.01, 0.03, 0.08])
def test_exact_chi_makes_no_more_of_a_rare_category_than_chance_does(share):
    rows, size, rare = 400, 100, int(400 * share)
    codes = (np.arange(rows) < rare).astype(int)
    hits = np.arange(rare + 1)
    current = np.zeros((len(hits), rows))
    for window, count in zip(current, hits, strict=True):
        window[:count] = window[rare : rare + size - count] = 1.0
    scores = exact_chi(codes, current, 1 - current)
    chances = hypergeom.pmf(hits, rows, rare, size)
    for limit in (1.5, 2.0, 2.5, 3.0, 3.5):
        assert chances[scores >= limit].sum() <= 2 * norm.sf(limit)


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
    assert exact_chi(np.arange(4), all_, nothing)[0] == 0
    assert exact_chi(np.zeros(8, np.int64), *sides(4, 4))[0] == 0
    assert energy(np.eye(4), nothing, all_)[0] == 0


def test_a_category_that_takes_over_is_as_far_off_as_can_be_told():
    codes = np.repeat([0, 1], 4000)
    assert 30 < exact_chi(codes, *sides(4000, 4000))[0] < np.inf
