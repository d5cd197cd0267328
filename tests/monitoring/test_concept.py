"""Performance figures against scikit-learn's, and concept drift's own rules."""

import hmac

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, recall_score, roc_auc_score

from monitoring.concept_drift import performance, score_concept

RNG = np.random.default_rng(9)


def labelled_table(n, rng=RNG):
    probability = np.round(rng.random(n), 2)
    return pd.DataFrame(
        {
            "patient": [f"p{i // 2}" for i in range(n)],
            "label.x": (rng.random(n) < probability).astype(float),
            "probability.x": probability,
            "positive.x": np.where(probability > 0.5, "yes", "no"),
        }
    )


def test_figures_are_the_usual_ones_also_over_counts():
    table = labelled_table(60)
    counts = RNG.integers(0, 3, size=(2, 60)).astype(float)
    found = performance(table, ["x"], counts)
    for row in range(2):
        drawn = table.loc[np.repeat(np.arange(60), counts[row].astype(int))]
        y, p = drawn["label.x"], drawn["probability.x"]
        positive = drawn["positive.x"] == "yes"
        assert found["x", "auc"][row] == pytest.approx(roc_auc_score(y, p))
        assert found["x", "brier"][row] == pytest.approx(brier_score_loss(y, p))
        assert found["x", "sensitivity"][row] == pytest.approx(recall_score(y, positive))
        assert found["x", "specificity"][row] == pytest.approx(recall_score(1 - y, ~positive))
        assert found["x", "calibration"][row] == pytest.approx((p - y).mean())


def test_a_class_that_is_all_but_absent_is_not_judged():
    current = labelled_table(40)
    current["label.x"] = 0.0
    result = score_concept(current, labelled_table(300), ["x"])
    assert {m.metric for m in result.metrics} == {"specificity", "brier", "calibration"}


def test_without_labels_nothing_is_judged():
    current = labelled_table(40)
    current["label.x"] = np.nan
    assert score_concept(current, labelled_table(300), ["x"]) is None


def test_better_than_the_reference_is_no_drift_but_miscalibrated_is():
    current = labelled_table(200, np.random.default_rng(1))
    good = score_concept(current.assign(**{"label.x": current["probability.x"].gt(0.5) * 1.0}),
                         labelled_table(300), ["x"])  # fmt: skip
    assert good.metrics[0].score < good.limit(0.05)
    shifted = current.assign(**{"probability.x": current["probability.x"] * 0.5})
    bad = score_concept(shifted, labelled_table(300), ["x"])
    assert (bad.metrics[0].metric, bad.metrics[0].score > bad.limit(0.05)) == ("calibration", True)


def test_a_reference_that_happens_to_err_seldom_alarms_no_more_often_than_asked():
    rng = np.random.default_rng(4)
    alarms = 0
    for seed in range(150):
        every = labelled_table(240, rng)
        window, rest = every[180:].assign(patient=lambda t: "new " + t["patient"]), every[:180]
        found = score_concept(window.reset_index(drop=True), rest, ["x"], seed)
        alarms += found.metrics[0].score > found.limit(0.05)
    assert alarms <= 15  # 7.5 expected; exceeded by chance once in 200


def test_a_window_larger_than_the_reference_is_judged_alike():
    rng = np.random.default_rng(5)
    window, reference = labelled_table(400, rng), labelled_table(100, rng)
    found = score_concept(window, reference, ["x"])
    assert found.metrics[0].score < found.limit(0.01)
    flipped = window.assign(**{"label.x": 1 - window["label.x"]})
    worse = score_concept(flipped, reference, ["x"])
    assert worse.metrics[0].score > worse.limit(0.01)


def test_the_secret_that_hashes_patients_changes_no_figure():
    rng = np.random.default_rng(6)
    window, reference = labelled_table(120, rng), labelled_table(200, rng)
    first, second = (
        score_concept(
            window.assign(patient=[keyed_hash(name, secret) for name in window["patient"]]),
            reference,
            ["x"],
        )
        for secret in (b"one log", b"another log")
    )
    assert first.metrics == second.metrics
    assert np.array_equal(first.largest, second.largest)


def keyed_hash(name, secret):
    return hmac.new(secret, name.encode(), "sha256").hexdigest()
