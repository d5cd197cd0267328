"""Part `ablation`: each change runs, changes something, and is measured against the default."""

import pandas as pd
import pytest

from benchmarks.accuracy import ablation
from benchmarks.accuracy.ablation import CHANGES, DEFAULT, Change, each, effective
from benchmarks.harness.runs import Finished, setting
from cxr_mm.core.paths import TaskPaths

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
    monkeypatch.setattr(ablation, "attempt", done)
    default, changed, gain = ablation.measure()
    assert gain.command == "make benchmark PART=ablation"
    assert (default.row, default.metric, default.value) == (DEFAULT, "fused auc", 0.5)
    assert (changed.row, changed.value, changed.table) == ("wider", 0.9, "ablation: tiny")
    assert gain.metric == "fused auc gain"
    assert gain.value == pytest.approx(1.0)
    assert gain.is_significant
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
    table["group"] = table["study_id"]
    for finding in ("consolidation", "effusion"):
        table[f"label.{finding}"] = label
        table[f"probability.{finding}"] = right
        table[f"positive.{finding}"] = [value > 0.5 for value in right]
    paths = TaskPaths("tiny", found.folder)
    paths.models.mkdir(parents=True)
    table.to_parquet(paths.heldout)
    table.iloc[:0].assign(division=1).to_parquet(paths.divisions)
    return found
