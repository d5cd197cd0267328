"""Mean predicted probabilities: silent without drift, early with it, whatever the size."""

import numpy as np
import pytest

from monitoring.shift_tests import score_prevalence
from monitoring.statistics import normal_limit


@pytest.mark.parametrize("size", [20, 200, 1500])
def test_undrifted_windows_exceed_the_limit_about_as_often_as_asked(window, frozen, size):
    limit = normal_limit(0.05)
    above = [
        score_prevalence(window(size, 900 + seed), frozen.table, ["pneumonia"]).score > limit
        for seed in range(40)
    ]
    assert np.mean(above) <= 0.15


def test_a_moved_mean_is_found_up_and_down_and_said(window, frozen):
    for shift in (-0.8, 0.8):
        found = score_prevalence(window(200, 5, logit_shift=shift), frozen.table, ["pneumonia"])
        assert found.score > normal_limit(0.005)
        assert (found.after["pneumonia"] > found.before["pneumonia"]) == (shift > 0)
        assert f"→ {100 * found.after['pneumonia']:.0f} %" in found.text
