"""DeLong's and Obuchowski's covariance against their definitions, the bootstrap, and the null."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxr_mm.evaluation.delong import Influence, auc_test, placements
from cxr_mm.evaluation.metrics import Scored, auc
from cxr_mm.evaluation.resampling import multiplicities


def kernel(x, y):
    return 1.0 if x > y else 0.5 if x == y else 0.0


def slow_covariance(labels, scores, patients):
    """Obuchowski (1997), term by term as printed."""
    names = sorted(set(patients))
    yes = [i for i in range(len(labels)) if labels[i]]
    no = [i for i in range(len(labels)) if not labels[i]]
    m, n = len(yes), len(no)
    parts = []
    for row in scores:
        v10 = {i: sum(kernel(row[i], row[j]) for j in no) / n for i in yes}
        v01 = {j: sum(kernel(row[i], row[j]) for i in yes) / m for j in no}
        area = sum(v10.values()) / m
        x = [sum(v10[i] - area for i in yes if patients[i] == c) for c in names]
        y = [sum(v01[j] - area for j in no if patients[j] == c) for c in names]
        parts.append((x, y))
    i10 = len({patients[i] for i in yes})
    i01 = len({patients[j] for j in no})
    found = np.zeros((len(scores), len(scores)))
    for a, (xa, ya) in enumerate(parts):
        for b, (xb, yb) in enumerate(parts):
            s10 = i10 / ((i10 - 1) * m) * np.dot(xa, xb)
            s01 = i01 / ((i01 - 1) * n) * np.dot(ya, yb)
            c = len(names) / (len(names) - 1)
            s11 = c * (np.dot(xa, yb) + np.dot(xb, ya))
            found[a, b] = s10 / m + s01 / n + s11 / (m * n)
    return found


cases = st.lists(
    st.tuples(st.booleans(), st.integers(0, 6), st.integers(0, 6), st.integers(0, 5)),
    min_size=6,
    max_size=24,
)


@settings(max_examples=60, deadline=None)
@given(cases)
def test_covariance_is_its_definition(rows):
    labels = np.array([float(r[0]) for r in rows])
    scores = np.array([[r[1] for r in rows], [r[2] for r in rows]], dtype=float)
    patients = [f"p{r[3]}" for r in rows]
    with_it = {p for p, y in zip(patients, labels, strict=True) if y}
    without = {p for p, y in zip(patients, labels, strict=True) if not y}
    if min(len(with_it), len(without)) < 2:
        assert labels.min() == labels.max() or auc_test(labels, list(scores), patients) is None
        return
    found = Influence.of(labels, scores, patients).covariance
    assert found == pytest.approx(slow_covariance(labels, scores, patients), abs=1e-12)
    for row, value in zip(scores, placements(labels, scores).auc, strict=True):
        assert value == pytest.approx(auc(Scored(labels, row, row > 0))[0])


def test_alone_patients_give_delongs_covariance():
    rng = np.random.default_rng(0)
    labels = np.r_[np.ones(30), np.zeros(50)]
    scores = rng.normal(size=(3, 80)) + labels
    placed = placements(labels, scores)
    delong = np.cov(placed.positives) / 30 + np.cov(placed.negatives) / 50
    assert Influence.of(labels, scores).covariance == pytest.approx(delong)


def simulated(rng, patients=60, images=3, shift=0.0):
    """Two scores of equal AUC (without `shift`) on images that share their patient's luck."""
    who = np.repeat(np.arange(patients), images)
    labels = (np.arange(patients) % 2).astype(float)[who]
    own = rng.normal(size=(2, patients))[:, who]
    scores = labels + own + 0.5 * rng.normal(size=(2, len(who)))
    scores[0] += shift * labels
    return labels, scores, who.astype(str)


def test_error_is_that_of_a_bootstrap_over_patients():
    labels, scores, who = simulated(np.random.default_rng(1), patients=200)
    weights = multiplicities(who, 1500, 0)
    draws = [auc(Scored(labels, row, row > 0), weights) for row in scores]
    found = auc_test(labels, list(scores), who)
    assert found.error == pytest.approx(np.std(draws[0] - draws[1]), rel=0.08)
    assert found.difference == pytest.approx(np.mean(draws[0] - draws[1]), abs=0.005)


def test_equal_models_are_rejected_as_often_as_promised_and_naive_images_far_more():
    rng = np.random.default_rng(2)
    clustered, naive, shifted = [], [], []
    for _ in range(400):
        labels, scores, who = simulated(rng)
        clustered.append(auc_test(labels, list(scores), who).p)
        naive.append(auc_test(labels, list(scores)).p)
        labels, scores, who = simulated(rng, shift=1.0)
        shifted.append(auc_test(labels, list(scores), who).p)
    assert 0.025 < np.mean(np.array(clustered) < 0.05) < 0.085
    assert np.mean(np.array(naive) < 0.05) > 0.15
    assert np.mean(np.array(shifted) < 0.05) > 0.6


def test_the_same_scores_do_not_differ():
    labels, scores, who = simulated(np.random.default_rng(3))
    found = auc_test(labels, [scores[0], 2 * scores[0] + 1], who)
    assert (found.difference, found.error, found.p) == (0.0, 0.0, 1.0)
