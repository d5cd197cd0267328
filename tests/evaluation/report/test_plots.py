import numpy as np
import pytest
from sklearn import metrics as sk

from cxr_mm.evaluation.metrics import Scored
from cxr_mm.evaluation.report.plots import (
    MOST_POINTS,
    confusion,
    curve_tables,
    precision_recall,
    reliability,
    roc,
)


def scored_of(n=300, steps=50):
    rng = np.random.default_rng(0)
    labels = (rng.random(n) < 0.4).astype(float)
    chances = np.clip(np.round((labels * 0.3 + rng.random(n) * 0.7) * steps) / steps, 0, 1)
    return Scored(labels, chances, chances > 0.5)


def test_area_under_the_points_is_the_auc():
    scored = scored_of()
    curve = roc(scored)
    assert curve.iloc[0][["fpr", "tpr"]].tolist() == [0, 0]
    assert curve.iloc[-1][["fpr", "tpr"]].tolist() == [1, 1]
    area = np.trapezoid(curve["tpr"], curve["fpr"])
    assert area == pytest.approx(sk.roc_auc_score(scored.labels, scored.probabilities), abs=1e-5)


def test_steps_of_precision_recall_add_up_to_average_precision():
    scored = scored_of()
    curve = precision_recall(scored)
    area = (np.diff(curve["recall"]) * curve["precision"].to_numpy()[1:]).sum()
    expected = sk.average_precision_score(scored.labels, scored.probabilities)
    assert area == pytest.approx(expected, abs=1e-4)


def test_a_long_curve_is_thinned_and_keeps_its_ends():
    curve = roc(scored_of(n=20000, steps=10**6))
    assert len(curve) <= MOST_POINTS
    assert curve.iloc[-1]["tpr"] == 1


def test_reliability_limits_hold_the_observed_share():
    curve = reliability(scored_of())
    assert curve["studies"].sum() == 300
    assert ((curve["low"] <= curve["observed"]) & (curve["observed"] <= curve["high"])).all()
    assert (curve["high"] - curve["low"] > 0.05).all()


def test_confusion_has_words_for_both_axes(task_of, table_of):
    binary = task_of()
    rows = table_of(binary).query("subset == 'available'")
    words = confusion(binary, rows)
    assert set(words["actual"]) == {"Effusion: no", "Effusion: yes"}
    assert len(words) == rows["label.effusion"].notna().sum()
    several = task_of("multiclass")
    words = confusion(several, table_of(several).query("subset == 'available'"))
    assert set(words["actual"]) == {"Effusion", "Consolidation", "Normal"}


def test_a_finding_of_one_class_has_no_curve(task_of, table_of):
    task = task_of("multilabel")
    table = table_of(task)
    table["label.effusion"] = 1.0
    tables = curve_tables(task, table)
    assert set(tables["roc"]["finding"]) == {"consolidation"}
    table["label.consolidation"] = 0.0
    assert set(curve_tables(task, table)) == {"confusion"}
