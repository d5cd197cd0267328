"""Service figures: volume, errors, latency and silences out of the log's hours."""

from datetime import UTC, datetime, timedelta

import pytest

from cxr_mm.prediction_log.windows import ServiceCount
from monitoring.diagnostics import service

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
