"""Limits by formula: their values where they are known, and their coverage where it is promised."""

import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import norm
from statsmodels.stats.proportion import proportion_confint

from benchmarks.accuracy.coverage import BOUNDS, OVERCONFIDENT, Setting, simulate
from cxr_mm.evaluation.delong import Influence, auc_limits
from cxr_mm.evaluation.limits import calibration_error, clustered_variance, mean_limits, rate_limits
from cxr_mm.evaluation.metrics import Scored


@pytest.mark.parametrize(("hits", "size"), [(0, 7), (3, 12), (12, 12), (45, 60)])
def test_rates_of_single_studies_have_wilsons_limits(hits, size):
    counted = np.arange(size + 5) < hits
    among = np.arange(size + 5) < size
    found = rate_limits(counted, among, np.arange(size + 5))
    assert found == pytest.approx(proportion_confint(hits, size, method="wilson"))


def test_copies_of_a_study_make_no_rate_surer():
    counted, who = np.arange(20) < 13, np.arange(20)
    once = rate_limits(counted, np.ones(20, bool), who)
    thrice = rate_limits(np.tile(counted, 3), np.ones(60, bool), np.tile(who, 3))
    assert thrice == pytest.approx(once, abs=0.01)
    assert rate_limits(counted, np.zeros(20, bool), who) is None


def test_a_mean_of_independent_values_has_students_variance():
    values = np.random.default_rng(0).random(30)
    assert clustered_variance(values, np.arange(30)) == pytest.approx(values.var(ddof=1) / 30)
    low, high = mean_limits(values, np.arange(30))
    assert low < values.mean() < high
    assert mean_limits(values, np.zeros(30)) is None
    assert mean_limits(np.zeros(30), np.arange(30)) == (0.0, 0.0)


def test_auc_limits_are_those_of_the_logit():
    rng = np.random.default_rng(1)
    labels = np.r_[np.ones(400), np.zeros(400)]
    scores = labels + rng.normal(size=800)
    low, high = auc_limits(labels, scores, np.arange(800))
    found = Influence.of(labels, scores[None])
    value, error = found.auc[0], np.sqrt(found.covariance[0, 0])
    middle, reach = np.log(value / (1 - value)), 1.96 * error / (value * (1 - value))
    assert (low, high) == pytest.approx((expit(middle - reach), expit(middle + reach)), abs=1e-3)


def test_separated_classes_are_not_certain():
    labels = np.r_[np.ones(6), np.zeros(14)]
    low, high = auc_limits(labels, labels, np.arange(20))
    assert 0.5 < low < 0.95
    assert high == 1.0
    assert auc_limits(labels, -labels, np.arange(20)) == pytest.approx((0.0, 1 - low))


def test_too_few_patients_have_no_auc_limits():
    labels = np.arange(40) % 2.0
    assert auc_limits(labels, labels, np.arange(40) % 8) is None
    assert auc_limits(np.ones(40), labels, np.arange(40)) is None
    assert auc_limits((np.arange(40) == 0) * 1.0, labels, np.arange(40)) is None


def test_calibration_error_of_a_calibrated_model_is_chance():
    rng = np.random.default_rng(2)
    inside, values, plugged = 0, [], []
    for _ in range(200):
        p = expit(1.5 * rng.normal(size=120))
        scored = Scored((rng.random(120) < p) * 1.0, p, p > 0.5)
        found = calibration_error(scored, np.arange(120))
        inside += found.band[0] <= found.plug_in <= found.band[1]
        assert (found.limits[0] == 0) == (found.plug_in <= found.band[1])
        values.append(found.value)
        plugged.append(found.plug_in)
    assert 0.93 <= inside / 200 <= 0.99
    assert np.mean(values) < np.mean(plugged) / 2


def test_calibration_error_of_a_large_sample_is_the_plug_in():
    rng = np.random.default_rng(3)
    p = rng.random(20_000) * 0.6
    scored = Scored((rng.random(20_000) < p + 0.2) * 1.0, p, p > 0.5)
    found = calibration_error(scored, np.arange(20_000))
    assert found.value == pytest.approx(0.2, abs=0.01)
    assert found.limits[0] <= 0.2 <= found.limits[1]
    assert np.ptp(found.limits) < 4 * norm.isf(0.025) * 0.5 / np.sqrt(20_000)
    assert calibration_error(scored.where(np.zeros(20_000, bool)), np.arange(0)) is None


def test_intervals_cover_and_tests_reject_as_often_as_promised():
    """The benchmark's simulation where nothing is sparse; all sizes are in RESULTS.md."""
    found = simulate(Setting(80, 3, 0.4), 500)
    coverage = {n: np.mean(found[n]) for n in ("AUC", "sensitivity", "specificity", "Brier")}
    least, most = BOUNDS["coverage"]
    assert all(least <= share <= most for share in coverage.values()), coverage
    assert np.mean(found[OVERCONFIDENT]) > least
    levels = [np.mean(found[name]) for name in ("AUC difference, level", "subgroup gap, level")]
    assert all(0.03 <= level <= 0.07 for level in levels), levels
    assert np.mean(found["subgroup gap, power"]) > 0.6
