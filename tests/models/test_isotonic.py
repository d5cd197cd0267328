"""The isotonic step: it rises strictly, stays finite, and fixes what a line cannot."""

import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from cxr_mm.models.calibration import KNOTS, isotonic_shift


def bent(n, seed):
    """Logits that are three times too sharp below nought and three times too dull above."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=n) * 2
    labels = (rng.random(n) < expit(truth)).astype(float)
    return np.where(truth < 0, 3 * truth, truth / 3), labels, truth


def loss(logits, labels):
    return float(np.mean(np.logaddexp(0, logits) - labels * logits))


def applied(logits, fitted):
    return logits + np.interp(logits, *fitted)


def test_a_bend_that_no_line_can_mend_is_mended_on_studies_it_has_not_seen():
    logits, labels, _ = bent(4000, 0)
    line = LogisticRegression(C=100).fit(logits[:, None], labels)
    fit = isotonic_shift(line.decision_function(logits[:, None]), labels)
    fresh, labels, truth = bent(20_000, 1)
    fresh, best = line.decision_function(fresh[:, None]), loss(truth, labels)
    assert loss(fresh, labels) - best > 0.015
    assert loss(applied(fresh, fit), labels) - best < 0.005


@pytest.mark.parametrize("n", [3, 30, 1000])
@pytest.mark.parametrize("seed", range(3))
def test_it_rises_strictly_so_no_two_studies_change_places(n, seed):
    logits, labels, _ = bent(n, seed)
    knots, shift = isotonic_shift(logits, labels)
    assert len(knots) <= KNOTS
    assert (np.diff(knots) > 0).all()
    assert (np.diff(knots + shift) > 0).all()
    grid = np.linspace(-30, 30, 5000)
    assert (np.diff(applied(grid, (knots, shift))) > 0).all()


@pytest.mark.parametrize("reach", [3.0, 60.0])
def test_separated_classes_and_extreme_logits_stay_finite(reach):
    logits = np.linspace(-reach, reach, 400)
    labels = (logits > 0).astype(float)
    probabilities = expit(applied(np.array([-3.0, 0.0, 3.0]), isotonic_shift(logits, labels)))
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert probabilities[0] < 0.05
    assert probabilities[2] > 0.95


def test_where_the_logits_are_right_little_is_changed():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=5000) * 1.5
    labels = (rng.random(5000) < expit(truth)).astype(float)
    fresh = rng.normal(size=20_000) * 1.5
    seen = (rng.random(20_000) < expit(fresh)).astype(float)
    cost = loss(applied(fresh, isotonic_shift(truth, labels)), seen) - loss(fresh, seen)
    assert cost < 0.002


def test_one_value_for_all_studies_is_moved_to_their_share():
    labels = np.repeat([1.0, 0.0], [300, 700])
    knots, shift = isotonic_shift(np.full(1000, 2.0), labels)
    assert knots == pytest.approx([2.0])
    assert knots + shift == pytest.approx(logit([0.3]), abs=0.15)
