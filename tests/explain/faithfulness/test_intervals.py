"""Intervals: the interval is one over patients."""

import numpy as np
import pytest

from cxr_mm.core.types import FEWEST_PATIENTS
from cxr_mm.explain.faithfulness.metrics import mean_with_interval


def test_the_mean_counts_studies_and_the_interval_holds_it():
    values = np.random.default_rng(0).normal(2.0, 1.0, 200)
    figure = mean_with_interval(values.tolist(), [str(i) for i in range(200)])
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["low"] < figure["value"] < figure["high"]
    assert figure["high"] - figure["low"] == pytest.approx(4 / 200**0.5, rel=0.2)


def test_studies_of_one_patient_are_not_independent():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 10).tolist()
    alone = mean_with_interval(values, [str(i) for i in range(200)])
    grouped = mean_with_interval(values, [str(i // 10) for i in range(200)])
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("patients", [30, 80])
def test_the_interval_holds_the_mean_as_often_as_it_says(patients):
    """Skewed values, one to four studies a patient, which share half of their variance."""
    rng, trials, held = np.random.default_rng(0), 2000, 0
    for _ in range(trials):
        owners = np.repeat(np.arange(patients), rng.integers(1, 5, patients))
        values = rng.gamma(4, size=patients)[owners] + rng.gamma(4, size=len(owners))
        figure = mean_with_interval(values.tolist(), owners.astype(str).tolist())
        held += figure["low"] <= 8 <= figure["high"]
    assert held / trials == pytest.approx(0.95, abs=0.02)


def test_of_too_few_patients_a_mean_has_no_interval():
    few = [str(k % (FEWEST_PATIENTS - 1)) for k in range(40)]
    assert mean_with_interval([1.0] * 40, few) == {"value": 1, "low": None, "high": None}
    enough = mean_with_interval([1.0] * 40, [str(k % FEWEST_PATIENTS) for k in range(40)])
    assert enough == {"value": 1, "low": 1, "high": 1}


def test_a_level_for_several_methods_is_wider():
    values = np.random.default_rng(0).normal(size=50).tolist()
    plain, corrected = (
        mean_with_interval(values, list(map(str, range(50))), level) for level in (0.95, 0.995)
    )
    assert corrected["low"] < plain["low"] < plain["high"] < corrected["high"]
