"""Repro: a clone with one small task of its own, whose parameters can be changed."""

import shutil

import pytest

from benchmarks.system import repro
from benchmarks.system.repro import CHANGES, PROJECT, TASK, change_params, make_project
from cxr_mm.core.config import PARAMS_FILE, load_params
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import load_task


def test_a_change_sets_what_it_names_alone(tmp_path):
    shutil.copy(PROJECT / PARAMS_FILE, tmp_path)
    before = load_params(tmp_path / PARAMS_FILE)
    for change in CHANGES.values():
        change_params(tmp_path, change)
    after = load_params(tmp_path / PARAMS_FILE)
    assert after.evaluate.bootstrap == 500
    assert after.fuse.operating_point == "high_sensitivity"
    undone = after.fuse.model_copy(update={"operating_point": before.fuse.operating_point})
    assert undone == before.fuse
    assert (after.ingest, after.tasks) == (before.ingest, before.tasks)


@pytest.mark.skipif(not (PROJECT / ".git").exists(), reason="not a git checkout")
def test_the_clone_has_one_small_task(tmp_path):
    project = make_project(tmp_path / "project")
    assert (project / "dvc.yaml").is_file()
    assert load_params(project / PARAMS_FILE).tasks == (TASK,)
    assert load_task(TASK, project).source.options["studies"] == repro.STUDIES


def test_where_there_is_no_history_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(repro, "PROJECT", tmp_path / "none")
    with pytest.raises(StageError, match="git clone failed"):
        make_project(tmp_path / "project")


def test_each_row_is_a_ratio_to_the_first_run(tmp_path, monkeypatch):
    seconds, changed = iter((40.0, 4.0, 90.0, 2.0, 8.0, 20.0)), []
    monkeypatch.setattr(repro, "make_project", lambda folder: folder)
    monkeypatch.setattr(repro, "change_params", lambda project, change: changed.append(change))
    monkeypatch.setattr(repro, "repro", lambda project: next(seconds))
    first, idle, *others = repro.measure()
    assert (first.value, idle.value, idle.seconds, idle.n) == (1.0, 0.1, 4.0, 3)
    assert [row.value for row in others] == [0.2, 0.5]
    assert changed == list(CHANGES.values())
