"""Gaps: found where there are any, and seldom where there are none."""

import numpy as np
import pytest

from cxr_mm.evaluation.delong import auc_estimate, auc_variance
from cxr_mm.evaluation.metrics import Scored
from cxr_mm.evaluation.resampling import Estimate, holm
from cxr_mm.evaluation.subgroups import Measured, gap_between

B, PATIENTS = 200, 1000


def rates(**hits):
    """Rates of groups of independent patients, whom the groups do not share."""
    measured, first = [], 0
    for name, own in hits.items():
        own = np.asarray(own, dtype=float)
        who = first + np.arange(len(own))
        estimate = Estimate(float(own.mean()), np.full(B, own.mean()))
        measured.append(Measured.rate(name, estimate, own, who, PATIENTS))
        first += len(own)
    return measured


def of_counts(**counts):
    return rates(**{name: [1] * k + [0] * (size - k) for name, (k, size) in counts.items()})


def auc_of(name, labels, scores, who):
    scored = Scored(np.asarray(labels, dtype=float), np.asarray(scores), np.asarray(scores) > 0.5)
    estimate = auc_estimate(scored, np.ones((B, len(labels)), dtype=np.uint16), who)
    return Measured.auc(name, estimate, scored, np.asarray(who), PATIENTS)


def test_a_wide_gap_is_found_between_the_right_groups():
    groups = of_counts(a=(60, 100), b=(20, 100), c=(25, 100))
    gap = gap_between(groups, 0)
    assert (gap.largest.higher, gap.largest.lower) == ("a", "b")
    assert gap.largest.difference == pytest.approx(0.4)
    assert gap.excludes_equality
    assert gap.p < 0.001
    assert 0.15 < gap.largest.low < 0.4 < gap.largest.high < 0.65


def test_no_miss_in_eight_is_no_proof_of_a_gap():
    """Patients who are all alike do not vary, which alone would make 12 of 40 look different."""
    gap = gap_between(of_counts(a=(0, 8), b=(12, 40)), 0)
    assert not gap.excludes_equality
    assert gap.p > 0.05


def test_equal_groups_are_seldom_flagged():
    rng = np.random.default_rng(2)
    flagged = 0
    for _ in range(200):
        groups = rates(a=rng.random(15) < 0.2, b=rng.random(30) < 0.2, c=rng.random(80) < 0.2)
        flagged += gap_between(groups, 0).excludes_equality
    assert flagged / 200 < 0.08


def test_the_clearest_pair_need_not_be_the_largest():
    groups = of_counts(small=(4, 6), large=(50, 400), other=(110, 400))
    gap = gap_between(groups, 0)
    assert (gap.largest.higher, gap.largest.lower) == ("small", "large")
    assert (gap.clearest.higher, gap.clearest.lower) == ("other", "large")
    assert gap.excludes_equality
    message = gap.to_json()
    assert message["higher"] == "small"
    assert message["clearest"]["higher"] == "other"


def test_p_of_two_groups_is_that_of_the_interval():
    gap = gap_between(of_counts(a=(40, 100), b=(27, 100)), 0)
    assert gap.excludes_equality == (gap.largest.low > 0) == (gap.p < 0.05)


def test_groups_without_an_interval_are_left_out():
    groups = of_counts(a=(5, 20), b=(6, 20))
    rare = Measured("rare", Estimate(0.5, np.full(B, np.nan)), 0.5, 0.1, np.zeros(PATIENTS))
    assert gap_between([*groups, rare], 0) == gap_between(groups, 0)
    assert gap_between([groups[0], rare], 0) is None
    assert gap_between([], 0) is None


def test_auc_variance_is_near_that_of_simulated_scores():
    rng = np.random.default_rng(6)
    positive, negative = rng.normal(1, 1, (2000, 40)), rng.normal(0, 1, (2000, 60))
    aucs = (positive[:, :, None] > negative[:, None]).mean(axis=(1, 2))
    assert auc_variance(aucs.mean(), 40, 60) == pytest.approx(aucs.var(), rel=0.2)


def test_a_perfect_auc_of_few_studies_is_no_proof_of_a_gap():
    perfect = auc_of("few", [1] * 5 + [0] * 6, np.linspace(1, 0, 11), np.arange(11))
    rng = np.random.default_rng(0)
    labels = np.arange(80) % 2
    usual = auc_of("many", labels, labels + rng.normal(0, 0.7, 80), 20 + np.arange(80))
    assert perfect.estimate.value == 1
    assert 0.8 < usual.estimate.value < 0.9
    assert not gap_between([perfect, usual], 0).excludes_equality


def test_auc_gaps_are_found_as_often_as_promised():
    """The variance of an AUC has no floor, by which the test would never reject."""
    rng = np.random.default_rng(8)
    flagged = {0.0: 0, 1.0: 0}
    for _ in range(400):
        who, labels, luck = np.arange(80), np.arange(80) % 4 == 0, rng.normal(size=(2, 80))
        for less in flagged:
            first = auc_of("a", labels, 1.5 * labels + luck[0], who)
            second = auc_of("b", labels, (1.5 - less) * labels + luck[1], 100 + who)
            flagged[less] += gap_between([first, second], 0).excludes_equality
    assert 0.03 < flagged[0.0] / 400 < 0.07
    assert flagged[1.0] / 400 > 0.6


def test_groups_of_the_same_patients_are_compared_within_them():
    """Two views of a patient agree, so that their gap is surer than that of two patients."""
    rng = np.random.default_rng(9)
    who, labels, luck = np.arange(80), np.arange(80) % 2, rng.normal(size=80)
    frontal = auc_of("frontal", labels, 1.5 * labels + luck, who)
    lateral = {
        shared: auc_of("lateral", labels, labels + luck + 0.1 * rng.normal(size=80), start + who)
        for shared, start in ((True, 0), (False, 100))
    }
    width = {
        shared: np.ptp((gap.largest.low, gap.largest.high))
        for shared, other in lateral.items()
        if (gap := gap_between([frontal, other], 0))
    }
    assert width[True] < 0.6 * width[False]


@pytest.mark.parametrize(
    ("given", "expected"),
    [([], []), ([0.04], [0.04]), ([0.04, 0.01, 0.03], [0.06, 0.03, 0.06]), ([0.9, 0.8], [1, 1])],
)
def test_holm(given, expected):
    assert holm(given) == pytest.approx(expected)
