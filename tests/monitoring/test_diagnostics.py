"""Subgroups, service figures and streaming detectors, which inform and raise no alarm."""

from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from cxr_mm.prediction_log.windows import ServiceCount
from monitoring.diagnostics import DETECTORS, detect, score_groups, service


def test_groups_that_are_large_enough_are_held_against_their_own(window, frozen):
    groups = score_groups(window(300, 41, labelled=True), frozen)
    levels = {(g.characteristic, g.level) for g in groups}
    assert {("Sex", "F"), ("Sex", "M"), ("View position", "PA"), ("Age", "40-59")} <= levels
    assert not any(level == "0-17" for _, level in levels)
    assert all(g.n >= 20 for g in groups)
    women = next(g for g in groups if g.level == "F")
    table = window(300, 41, labelled=True)
    assert women.n == (table["clinical.sex"] == "F").sum()


def test_one_group_alone_gets_worse_and_is_marked(window, frozen):
    table = window(400, 42, labelled=True)
    women = table["clinical.sex"] == "F"
    table.loc[women, "label.pneumonia"] = 1 - table.loc[women, "label.pneumonia"]
    groups = {g.level: g for g in score_groups(table, frozen) if g.characteristic == "Sex"}
    assert groups["F"].metrics[0].score > groups["F"].limit
    assert groups["M"].metrics[0].score < groups["M"].limit


START = datetime(2026, 3, 1, tzinfo=UTC)


def hour(at, records, p95=None, **events):
    return ServiceCount(START + timedelta(hours=at), records, events, p95, p95)


def test_hours_are_summed_up_and_the_longest_silence_is_found():
    hours = [hour(1, 10, 200.0, rejected_image=2), hour(2, 5, 900.0), hour(9, 1, failure=1)]
    found = service(hours, START, START + timedelta(hours=12))
    assert (found.predictions, found.refused, found.bad_input, found.failures) == (16, 2, 0, 1)
    assert found.slowest == 900.0
    assert found.longest_gap == 6.0
    assert found.facts()["hours"][0]["start"] == "2026-03-01T01:00:00+00:00"


@pytest.mark.parametrize("since", [START, None])
def test_a_window_without_any_request_is_one_silence(since):
    found = service([], since, START + timedelta(hours=12))
    assert found.longest_gap == (12.0 if since else 0.0)
    assert found.slowest is None


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
