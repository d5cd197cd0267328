"""Part `ablation`: each change has an effect, compared with the default on the same studies."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score

from benchmarks.accuracy import ablation
from benchmarks.accuracy.ablation import CHANGES, DEFAULT, Change, difference, each, effective
from benchmarks.harness import runs
from benchmarks.harness.runs import Finished, setting
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task

TINY = (
    Change("tiny", "wider", {"fuse": {"image_scale": 3.0}}),
    *each("tiny", "fuse.inner_folds", 2, 3),
)


@pytest.mark.parametrize("change", CHANGES, ids=lambda c: f"{c.task} {c.row}")
def test_a_change_is_of_parameters_that_there_are(change):
    setting(change.task, change.overrides)


def test_no_two_changes_of_a_task_are_the_same():
    folders = [setting(c.task, c.overrides).paths.root for c in CHANGES]
    defaults = {setting(c.task, {}).paths.root for c in CHANGES}
    changed = [folder for folder in folders if folder not in defaults]
    assert len(changed) == len(set(changed))


def test_what_leaves_the_default_as_it_is_is_no_row(project, monkeypatch):
    monkeypatch.setattr(ablation, "CHANGES", TINY)
    assert [change.row for change in effective("tiny")] == ["wider", "fuse.inner_folds 3"]


def test_rows_are_measured_against_the_default(project, monkeypatch):
    def done(task, overrides, name):
        if "inner_folds" in name:
            return None
        return _finished(project, 0.9 if name == "wider" else 0.5, name)

    monkeypatch.setattr(ablation, "CHANGES", TINY)
    monkeypatch.setattr(runs, "attempt", done)
    default, changed, gain = ablation.measure()
    assert (default.row, default.metric, default.value) == (DEFAULT, "fused auc", 0.5)
    assert (changed.row, changed.value, changed.table) == ("wider", 0.9, "ablation: tiny")
    assert gain.metric == "fused auc gain"
    assert gain.value == pytest.approx(1.0)
    assert gain.p < 0.05
    assert ablation.measure_training() == []


def test_tasks_whose_encoder_learns_are_a_part_of_their_own():
    for task in {change.task for change in CHANGES}:
        learns = setting(task, {}).params.train_image.trainable != "frozen"
        assert learns == (task in ablation.TRAINED)


def _finished(project, auc, name):
    """A run whose held-out predictions are all right, or for the default all wrong."""
    folder = project / name
    seen = {"n": 40, "findings": {}, "macro": {"auc": {"value": auc, "ci95": [0.1, 0.95]}}}
    found = Finished(
        name=name,
        folder=folder,
        metrics={"task": "tiny", "subsets": {"available": seen}},
        seconds={"fuse": 1.0},
        device="cpu, 1 threads",
        code="",
        source={},
    )
    label = [float(n % 2) for n in range(40)]
    right = label if auc > 0.5 else [1 - value for value in label]
    table = pd.DataFrame({"study_id": [f"s{n:02}" for n in range(40)], "subset": "available"})
    table["group"], table["fold"] = table["study_id"], 0
    for finding in ("consolidation", "effusion"):
        table[f"label.{finding}"] = label
        table[f"probability.{finding}"] = right
        table[f"positive.{finding}"] = [value > 0.5 for value in right]
    paths = TaskPaths("tiny", found.folder)
    paths.models.mkdir(parents=True)
    table.to_parquet(paths.heldout)
    table.iloc[:0].assign(division=1).to_parquet(paths.divisions)
    return found


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
    return rows.assign(fold=0)


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
