"""Streaming detectors: since when errors are more."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd

from monitoring.diagnostics import DETECTORS, detect

START = datetime(2026, 3, 1, tzinfo=UTC)


def stream(errors):
    n = len(errors)
    return pd.DataFrame(
        {
            "created_at": [START + timedelta(minutes=i) for i in range(n)],
            "label.x": np.zeros(n),
            "positive.x": np.where(errors, "yes", "no"),
        }
    )


def errors(n, rate, seed):
    return np.random.default_rng(seed).random(n) < rate


REFERENCE = stream(errors(400, 0.1, 0))


def test_every_detector_says_since_when_errors_are_many():
    table = stream(np.concatenate([errors(200, 0.1, 1), errors(300, 0.6, 2)]))
    shuffled = table.sample(frac=1, random_state=0)
    for found in detect(shuffled, REFERENCE, ["x"]):
        assert found.study is not None, found.detector
        assert 200 < found.study < 320, found.detector
        assert found.when == START + timedelta(minutes=found.study - 1)
        assert found.n == 500


def test_most_are_silent_where_errors_are_as_before():
    spoke = [
        f.detector
        for seed in range(8)
        for f in detect(stream(errors(300, 0.1, 10 + seed)), REFERENCE, ["x"], seed)
        if f.study is not None
    ]
    assert len(spoke) <= 0.25 * 8 * len(DETECTORS)


def test_studies_without_a_label_are_no_errors():
    table = stream(errors(100, 0.9, 3)).assign(**{"label.x": np.nan})
    assert all((f.study, f.n) == (None, 0) for f in detect(table, REFERENCE, ["x"]))
