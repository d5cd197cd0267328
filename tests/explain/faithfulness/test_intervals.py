"""Intervals: the interval is one over patients."""

import numpy as np
import pytest

from cxr_mm.explain.faithfulness.metrics import mean_with_interval


def test_the_mean_counts_studies_and_the_interval_holds_it():
    values = np.random.default_rng(0).normal(2.0, 1.0, 200)
    figure = mean_with_interval(values.tolist(), [str(i) for i in range(200)], seed=0)
    assert figure["value"] == pytest.approx(values.mean())
    assert figure["low"] < figure["value"] < figure["high"]
    assert figure["high"] - figure["low"] == pytest.approx(4 / 200**0.5, rel=0.2)


def test_studies_of_one_patient_are_not_independent():
    values = np.repeat(np.random.default_rng(0).normal(size=20), 10).tolist()
    alone = mean_with_interval(values, [str(i) for i in range(200)], seed=0)
    grouped = mean_with_interval(values, [str(i // 10) for i in range(200)], seed=0)
    assert grouped["high"] - grouped["low"] > 2 * (alone["high"] - alone["low"])
