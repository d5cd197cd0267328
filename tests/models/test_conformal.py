"""Conformal bounds: the promised coverage in each class, and no class ruled out without it."""

import numpy as np
import pytest
from scipy.special import expit, softmax

from cxr_mm.core.prediction import ConformalBounds
from cxr_mm.models.decision import certainties, fit_bounds


def binary(n, seed, strength=0.7):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.2).astype(np.float32)
    return labels, expit(strength * (2 * labels - 1) + rng.normal(size=n) - 1.4)


def covered(labels, words):
    """Share of positives and of negatives whose true answer was left in."""
    return [
        np.mean([word != wrong for word, label in zip(words, labels, strict=True) if label == of])
        for of, wrong in ((1, "absent"), (0, "present"))
    ]


def said(bounds, probabilities, threshold=0.2):
    rows = certainties(
        "binary",
        probabilities[:, None],
        probabilities[:, None] >= threshold,
        [[bounds]] * len(probabilities),
    )
    return [row[0] for row in rows]


@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_each_class_is_covered_as_promised_over_many_calibrations(coverage):
    found = []
    for seed in range(60):
        bounds = fit_bounds(*binary(200, seed), coverage, "binary")
        labels, probabilities = binary(500, 1000 + seed)
        # A threshold that is not in the way: what is measured are the bounds themselves.
        middle = (bounds.present_from + bounds.absent_to) / 2
        found.append(covered(labels, said(bounds, probabilities, middle)))
    for share in np.mean(found, axis=0):
        assert coverage - 0.015 < share < coverage + 0.04


def test_too_few_studies_of_a_class_leave_it_in_every_set():
    labels, probabilities = binary(400, 0)
    few = np.flatnonzero(labels == 1)[8:]
    labels[few] = np.nan
    bounds = fit_bounds(labels, probabilities, 0.9, "binary")
    assert bounds.present_from == 0.0
    assert bounds.absent_to < 1.0
    assert "absent" not in said(bounds, probabilities)
    labels[few[0]] = 1
    assert fit_bounds(labels, probabilities, 0.9, "binary").present_from > 0
    nothing = fit_bounds(np.full(5, np.nan, np.float32), np.full(5, 0.5), 0.9, "binary")
    assert (nothing.present_from, nothing.absent_to) == (0.0, 1.0)


def test_the_rank_is_the_textbook_one_for_nine_and_nineteen_studies():
    values = np.arange(1, 20) / 20
    for count, rank in ((9, 1), (18, 1), (19, 2)):
        labels = np.ones(count, np.float32)
        assert fit_bounds(labels, values[:count], 0.9, "binary").present_from == values[rank - 1]


def test_a_finding_told_apart_better_than_asked_is_never_uncertain():
    bounds = fit_bounds(*binary(2000, 0, strength=6.0), 0.9, "binary")
    labels, probabilities = binary(2000, 1, strength=6.0)
    assert bounds.absent_to < bounds.present_from
    words = said(bounds, probabilities)
    assert "uncertain" not in words
    assert min(covered(labels, words)) > 0.9


def test_nothing_certain_contradicts_the_operating_point():
    bounds = ConformalBounds(coverage=0.9, present_from=0.3, absent_to=0.6)
    probabilities = np.array([0.1, 0.25, 0.3, 0.5, 0.6, 0.7])
    for threshold, words in (
        (0.4, ["absent", "absent", "uncertain", "uncertain", "uncertain", "present"]),
        (0.2, ["absent", "uncertain", "uncertain", "uncertain", "uncertain", "present"]),
        (0.65, ["absent", "absent", "uncertain", "uncertain", "uncertain", "present"]),
        (0.8, ["absent", "absent", "uncertain", "uncertain", "uncertain", "uncertain"]),
    ):
        assert said(bounds, probabilities, threshold) == words


def test_sets_of_classes_cover_each_class_and_always_hold_the_likeliest():
    rng = np.random.default_rng(0)
    names = 3
    truth = rng.integers(names, size=3000)
    labels = np.eye(names, dtype=np.float32)[truth]
    chances = softmax(1.5 * labels + rng.normal(size=labels.shape), axis=1)
    learn, test = slice(1000), slice(1000, None)
    bounds = [
        fit_bounds(labels[learn, c], chances[learn, c], 0.9, "multiclass") for c in range(names)
    ]
    assert all(b.absent_to is None for b in bounds)
    likeliest = chances[test].argmax(1)[:, None] == np.arange(names)
    rows = np.array(certainties("multiclass", chances[test], likeliest, [bounds] * 2000))
    possible = rows != "absent"
    assert possible[likeliest].all()
    for c in range(names):
        assert 0.86 < possible[truth[test] == c, c].mean() < 0.94
    alone = possible.sum(1) == 1
    assert 0 < alone.mean() < 1
    assert (rows[alone][possible[alone]] == "present").all()
    assert (rows[~alone][possible[~alone]] == "uncertain").all()


def test_no_study_gives_no_row():
    assert certainties("binary", np.zeros((0, 1)), np.zeros((0, 1), bool), []) == []
