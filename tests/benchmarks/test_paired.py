"""Paired differences: of the very same studies, by the very same resamples."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy.ablation import difference
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import load_task

PARAMS = EvaluateParams(bootstrap=200)


def table(seed, good, names=("pneumonia",), n=80):
    rng = np.random.default_rng(0)
    truth = rng.integers(0, max(len(names), 2), n)
    noise = np.random.default_rng(seed).normal(size=(n, len(names)))
    rows = pd.DataFrame({"study_id": [f"s{i}" for i in range(n)], "subset": "available"})
    rows["group"] = [f"p{i // 2}" for i in range(n)]
    yes = truth[:, None] == (np.arange(len(names)) if len(names) > 1 else 1)
    score = np.exp(good * yes + noise)
    score = score / score.sum(axis=1, keepdims=True) if len(names) > 1 else score / (1 + score)
    for i, name in enumerate(names):
        rows[f"label.{name}"] = yes[:, i].astype(float)
        rows[f"probability.{name}"] = score[:, i]
        likeliest = score[:, i] == score.max(axis=1)
        rows[f"positive.{name}"] = likeliest if len(names) > 1 else score[:, i] > 0.5
    return rows


def test_the_difference_is_that_of_the_two_figures():
    task, ours, theirs = load_task("pneumonia"), table(1, 2.0), table(2, 0.5)
    found = difference(task, [ours], [theirs], "fused", "auc", PARAMS)
    assert found is not None
    aucs = [roc_auc_score(t["label.pneumonia"], t["probability.pneumonia"]) for t in (ours, theirs)]
    assert found.value == pytest.approx(aucs[0] - aucs[1])
    low, high = found.interval
    assert 0 < low < found.value < high


def test_a_model_does_not_differ_from_itself():
    ours = table(1, 2.0)
    shuffled = ours.sample(frac=1, random_state=1)
    for metric in ("auc", "average_precision", "accuracy", "specificity"):
        found = difference(load_task("pneumonia"), [ours], [shuffled], "fused", metric, PARAMS)
        assert found is not None
        assert (found.value, found.interval) == (0.0, (0.0, 0.0))


def test_of_classes_the_accuracy_is_that_of_the_likeliest():
    task = load_task("pneumonia3")
    ours, theirs = (table(s, g, task.finding_names) for s, g in ((1, 2.0), (2, 0.5)))
    found = difference(task, [ours], [theirs], "fused", "accuracy", PARAMS)
    assert found is not None
    right = []
    for rows in (ours, theirs):
        labels, chances = (
            rows[[f"{part}.{name}" for name in task.finding_names]].to_numpy(float)
            for part in ("label", "probability")
        )
        right.append((labels.argmax(1) == chances.argmax(1)).mean())
    assert found.value == pytest.approx(right[0] - right[1])


def test_figures_of_other_studies_are_not_compared():
    task, ours = load_task("pneumonia"), table(1, 2.0)
    assert difference(task, [ours], [ours.iloc[1:]], "fused", "auc", PARAMS) is None
    assert difference(task, [ours], [ours], "image", "auc", PARAMS) is None
