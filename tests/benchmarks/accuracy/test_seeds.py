"""Part `seeds`: each seed, their mean, and their spread."""

import pytest

from benchmarks.accuracy.seeds import rows_of


def test_mean_and_spread_are_over_the_seeds():
    runs = {
        seed: {"subsets": {"image": {"n": 9, "findings": {"pneumonia": {"auc": {"value": value}}}}}}
        for seed, value in ((0, 0.9), (1, 0.8), (2, 0.7))
    }
    rows = list(rows_of("pneumonia", runs))
    assert [(row.row, row.value) for row in rows] == [
        ("seed 0", 0.9),
        ("seed 1", 0.8),
        ("seed 2", 0.7),
        ("mean over 3 seeds", pytest.approx(0.8)),
        ("standard deviation over 3 seeds", pytest.approx(0.1)),
    ]


def test_one_seed_has_no_spread():
    image = {"n": 9, "findings": {"pneumonia": {"auc": {"value": 0.9}}}}
    rows = list(rows_of("pneumonia", {0: {"subsets": {"image": image}}}))
    assert [row.row for row in rows] == ["seed 0"]
