"""Rejected images against Fisher's exact test, and its rate."""

import numpy as np
import pytest
from scipy.stats import fisher_exact, norm

from monitoring.shift_tests import score_rejected
from monitoring.statistics import normal_limit


@pytest.mark.parametrize(("refused", "images"), [(0, 50), (3, 50), (20, 200)])
def test_the_score_is_that_of_fishers_test(refused, images):
    found = score_rejected(refused, images, 4, 300)
    table = [[refused, images - refused], [4, 296]]
    chance = fisher_exact(table, alternative="greater").pvalue
    assert norm.sf(found.score) == pytest.approx(chance, abs=1e-9)


def test_undrifted_windows_exceed_the_limit_no_more_often_than_asked():
    rng = np.random.default_rng(0)
    limit = normal_limit(0.05)
    above = []
    for _ in range(600):
        before, now = rng.binomial(300, 0.02), rng.binomial(100, 0.02)
        above.append(score_rejected(now, 100, before, 300).score > limit)
    assert np.mean(above) <= 0.05


def test_fewer_refused_are_no_reason_and_no_image_no_score():
    assert score_rejected(0, 100, 30, 300).score < 0
    assert score_rejected(0, 0, 4, 300) is None
    assert "4.0 % (2 of 50)" in score_rejected(2, 50, 4, 300).text
