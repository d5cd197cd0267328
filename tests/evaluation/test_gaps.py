"""Gaps: found where there are any, and seldom where there are none."""

import numpy as np
import pytest

from cxr_mm.evaluation.resampling import Estimate, holm
from cxr_mm.evaluation.subgroups import Measured, auc_variance, gap_between

B = 200


def group(name, hits, rng):
    """Rate of a group of independent patients, with its resamples."""
    hits = np.asarray(hits, dtype=float)
    draws = hits[rng.integers(len(hits), size=(B, len(hits)))].mean(axis=1)
    estimate = Estimate(float(hits.mean()), draws, trials=len(hits))
    return Measured.rate(name, estimate, len(hits))


def of_counts(rng, **counts):
    return [group(n, [1] * k + [0] * (size - k), rng) for n, (k, size) in counts.items()]


def test_a_wide_gap_is_found_between_the_right_groups():
    rng = np.random.default_rng(0)
    groups = of_counts(rng, a=(60, 100), b=(20, 100), c=(25, 100))
    gap = gap_between(groups, 0)
    assert (gap.largest.higher, gap.largest.lower) == ("a", "b")
    assert gap.largest.difference == pytest.approx(0.4)
    assert gap.excludes_equality
    assert gap.p < 0.001
    assert 0.15 < gap.largest.low < 0.4 < gap.largest.high < 0.65


def test_no_miss_in_eight_is_no_proof_of_a_gap():
    """A bootstrap of 0 of 8 never varies, which alone would make 12 of 40 look different."""
    gap = gap_between(of_counts(np.random.default_rng(1), a=(0, 8), b=(12, 40)), 0)
    assert not gap.excludes_equality
    assert gap.p > 0.05


def test_equal_groups_are_seldom_flagged():
    rng = np.random.default_rng(2)
    flagged = 0
    for _ in range(200):
        groups = [group(str(n), rng.random(size) < 0.2, rng) for n, size in enumerate((15, 30, 80))]
        flagged += gap_between(groups, 0).excludes_equality
    assert flagged / 200 < 0.08


def test_the_clearest_pair_need_not_be_the_largest():
    groups = of_counts(np.random.default_rng(3), small=(4, 6), large=(50, 400), other=(110, 400))
    gap = gap_between(groups, 0)
    assert (gap.largest.higher, gap.largest.lower) == ("small", "large")
    assert (gap.clearest.higher, gap.clearest.lower) == ("other", "large")
    assert gap.excludes_equality
    message = gap.to_json()
    assert message["higher"] == "small"
    assert message["clearest"]["higher"] == "other"


def test_p_of_two_groups_is_that_of_the_interval():
    gap = gap_between(of_counts(np.random.default_rng(4), a=(40, 100), b=(27, 100)), 0)
    assert gap.excludes_equality == (gap.largest.low > 0) == (gap.p < 0.05)


def test_groups_without_an_interval_are_left_out():
    rng = np.random.default_rng(5)
    groups = of_counts(rng, a=(5, 20), b=(6, 20))
    rare = Measured("rare", Estimate(0.5, np.full(B, np.nan)), 0.5, 0.1)
    assert gap_between([*groups, rare], 0) == gap_between(groups, 0)
    assert gap_between([groups[0], rare], 0) is None
    assert gap_between([], 0) is None


def test_auc_variance_is_near_that_of_simulated_scores():
    rng = np.random.default_rng(6)
    positive, negative = rng.normal(1, 1, (2000, 40)), rng.normal(0, 1, (2000, 60))
    aucs = (positive[:, :, None] > negative[:, None]).mean(axis=(1, 2))
    assert auc_variance(aucs.mean(), 40, 60) == pytest.approx(aucs.var(), rel=0.2)


def test_a_perfect_auc_of_few_studies_is_no_proof_of_a_gap():
    perfect = Measured.auc("few", Estimate(1.0, np.ones(B)), 5, 6)
    draws = np.random.default_rng(0).normal(0.85, 0.04, B)
    usual = Measured.auc("many", Estimate(0.85, draws), 40, 40)
    assert not gap_between([perfect, usual], 0).excludes_equality


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], []), ([0.04], [0.04]), ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]), ([0.9, 0.8], [1, 1])],
)
def test_holm(given, expected):
    assert holm(given) == pytest.approx(expected)
