import numpy as np
import pytest
from scipy.stats import binomtest

from cxr_mm.core.types import FEWEST_PATIENTS
from cxr_mm.evaluation.delong import auc_test
from cxr_mm.evaluation.metrics import Scored, auc, measure
from cxr_mm.evaluation.resampling import (
    Estimate,
    exact_interval,
    mean_of,
    multiplicities,
    rounded,
)


def auc_of(labels, chances, weights):
    scored = Scored(labels, chances, chances > 0.5)
    return Estimate(float(auc(scored)[0]), auc(scored, weights))


def test_studies_of_a_patient_are_drawn_together_and_as_often_as_patients():
    groups = np.array([*"babcad", *"efghij"])
    counts = multiplicities(groups, 500, seed=1)
    assert counts.shape == (500, 12)
    assert (counts[:, 0] == counts[:, 2]).all()
    assert (counts[:, 1] == counts[:, 4]).all()
    assert (counts[:, [0, 1, 3, *range(5, 12)]].sum(axis=1) == 10).all()
    assert counts.mean(axis=0) == pytest.approx(np.ones(12), abs=0.2)


@pytest.mark.parametrize("patients", [1, FEWEST_PATIENTS - 1])
def test_of_too_few_patients_no_figure_has_an_interval(patients):
    rng = np.random.default_rng(0)
    labels = np.arange(200) % 2.0
    scored = Scored(labels, (labels + rng.random(200)) / 2, labels > 0)
    groups = np.arange(200) % patients
    weights = multiplicities(groups, 100, seed=0)
    every = measure(scored, weights)
    reports = {
        name: Estimate(float(value[0]), every[name]).to_json()
        for name, value in measure(scored).items()
    }
    assert {str(report["ci95"]) for report in reports.values()} == {"None"}
    assert reports["auc"]["reason"] == "too few patients for an interval (at least 10)"
    assert auc_test(labels, [scored.probabilities, rng.random(200)], groups) is None
    enough = multiplicities(np.arange(200) % FEWEST_PATIENTS, 100, seed=0)
    assert auc_of(labels, scored.probabilities, enough).interval is not None


def test_draws_depend_on_the_seed_and_not_on_the_order_of_studies():
    groups = np.array([f"p{i % 17}" for i in range(40)])
    first = multiplicities(groups, 50, seed=3)
    shuffled = np.random.default_rng(0).permutation(40)
    assert (multiplicities(groups[shuffled], 50, seed=3) == first[:, shuffled]).all()
    assert (multiplicities(groups, 50, seed=4) != first).any()


def test_interval_is_that_of_a_plain_bootstrap():
    rng = np.random.default_rng(0)
    values = rng.normal(size=80)
    counts = multiplicities(np.arange(80), 2000, seed=0)
    estimate = Estimate(values.mean(), counts @ values / counts.sum(axis=1))
    low, high = estimate.interval
    error = values.std() / np.sqrt(80)
    assert (low, high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.15 * error
    )


def covered(resampled_by, trials=150):
    """Share of simulated studies of 50 patients × 4 images whose interval holds the true AUC."""
    # A positive patient's images share a shift, so images are anything but independent.
    truth = 0.7602  # Phi(1 / sqrt(2)): a difference of 1 over total variances of 1 + 1
    hits = 0
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        patients = np.repeat(np.arange(50), 4)
        labels = (np.arange(50) % 2)[patients].astype(float)
        chances = labels + np.sqrt(0.8) * rng.normal(size=50)[patients]
        chances = chances + np.sqrt(0.2) * rng.normal(size=200)
        groups = patients if resampled_by == "patients" else np.arange(200)
        low, high = auc_of(labels, chances, multiplicities(groups, 200, trial)).interval
        hits += low <= truth <= high
    return hits / trials


def test_interval_over_patients_covers_and_one_over_images_would_not():
    assert covered("patients") > 0.88
    assert covered("images") < 0.8


def test_difference_of_identical_columns_is_exactly_zero():
    rng = np.random.default_rng(0)
    labels = (rng.random(60) < 0.5).astype(float)
    chances = rng.random(60)
    weights = multiplicities(np.arange(60), 200, seed=0)
    same = auc_of(labels, chances, weights) - auc_of(labels, chances.copy(), weights)
    assert same.to_json() == {"value": 0.0, "ci95": [0.0, 0.0]}


def test_paired_difference_is_tighter_than_an_unpaired_one():
    rng = np.random.default_rng(0)
    labels = (rng.random(120) < 0.5).astype(float)
    first = labels + rng.normal(size=120) * 1.5
    second = first + rng.normal(size=120) * 0.1
    weights = multiplicities(np.arange(120), 500, seed=0)
    others = multiplicities(np.arange(120), 500, seed=1)
    paired = auc_of(labels, first, weights) - auc_of(labels, second, weights)
    unpaired = auc_of(labels, first, weights) - auc_of(labels, second, others)
    assert np.ptp(paired.interval) < np.ptp(unpaired.interval) / 3


def test_undefined_values_are_null_with_a_reason():
    nothing = Estimate(np.nan, np.full(100, np.nan), "no study has the finding")
    assert nothing.to_json() == {
        "value": None,
        "ci95": None,
        "reason": "no study has the finding",
    }
    draws = np.where(np.arange(100) < 90, 0.5, np.nan)
    message = Estimate(0.5, draws).to_json()
    assert (message["value"], message["ci95"]) == (0.5, None)
    assert "10%" in message["reason"]


@pytest.mark.parametrize(("value", "trials"), [(1.0, 20), (0.0, 7), (1.0, 1), (0.4, 10)])
def test_exact_limits_of_a_share_of_trials(value, trials):
    exact = binomtest(int(value * trials), trials).proportion_ci(0.95, method="exact")
    assert exact_interval(value, trials) == pytest.approx((exact.low, exact.high))


def test_a_centred_interval_holds_its_value_and_stays_above_zero():
    draws = np.random.default_rng(0).normal(0.2, 0.05, size=1000)
    low, high = Estimate(0.05, draws, centred=True, least=0.0).interval
    assert low == 0.0
    assert high == pytest.approx(0.05 + 1.96 * 0.05, abs=0.01)


def test_mean_skips_what_is_not_defined():
    first, second = Estimate(0.2, np.array([0.1, 0.3])), Estimate(0.6, np.array([0.5, 0.7]))
    none = Estimate(np.nan, np.array([np.nan, np.nan]), "no study has a label")
    mean = mean_of([none, first, second])
    assert mean.value == pytest.approx(0.4)
    assert mean.draws == pytest.approx([0.3, 0.5])
    assert mean_of([none]).to_json()["reason"] == "no study has a label"


def test_limits_by_formula_are_not_those_of_a_difference_or_a_mean():
    draws = np.random.default_rng(0).normal(0.5, 0.01, size=1000)
    one = Estimate(0.5, draws, limits=(0.1, 0.9))
    assert one.interval == (0.1, 0.9)
    assert mean_of([one]).interval == (0.1, 0.9)
    assert np.ptp(mean_of([one, one]).interval) < 0.1
    assert (one - one).interval == (0.0, 0.0)
    assert Estimate(0.5, np.full(100, np.nan), limits=(0.1, 0.9)).interval is None


def test_a_mean_of_what_cannot_vary_has_the_widest_limits():
    sure, unsure = (Estimate(1.0, np.ones(100), limits=(low, 1.0)) for low in (0.9, 0.7))
    assert mean_of([sure, unsure]).interval == (0.7, 1.0)


def test_rounding_gives_no_minus_zero():
    assert str(rounded(-1e-9)) == "0.0"
