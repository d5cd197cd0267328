"""Verdict and exit codes."""

import pytest
from pydantic import ValidationError

from cxr_mm.core.verdict import ERROR_EXIT_CODE, EXIT_CODES, Reason, Verdict, most_severe


def reason(level):
    return Reason(
        drift="data", name="x", title="x", level=level, score=5.0, limit=4.0, text="x moved"
    )


def verdict(status):
    return Verdict(
        status=status,
        task="icu",
        digest="d",
        n=30,
        n_labelled=0,
        first=None,
        last=None,
        headline="Words.",
    )


def test_exit_codes_tell_all_outcomes_apart():
    codes = {status: verdict(status).exit_code for status in EXIT_CODES}
    assert codes == {"ok": 0, "too_small": 3, "warn": 10, "alarm": 20}
    assert ERROR_EXIT_CODE not in codes.values()


def test_gravest_level_counts():
    assert most_severe(()) == "ok"
    assert most_severe((reason("warn"),)) == "warn"
    assert most_severe((reason("warn"), reason("alarm"))) == "alarm"


def test_verdict_is_frozen_and_one_line():
    assert verdict("too_small").line == "TOO SMALL icu: Words."
    with pytest.raises(ValidationError):
        verdict("ok").status = "alarm"
