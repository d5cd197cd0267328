"""The folder of an experiment: parameters of its own task alone, and stages said as they run."""

import logging
import shutil

import pytest
import yaml

from cxr_mm.core.config import load_params
from cxr_mm.core.errors import ParamsError
from monitoring.retraining.experiment import create_workspace, dvc

PER_TASK = {
    "icu": {"split": {"protocol": "folds", "folds": 5}},
    "synthetic": {"fuse": {"fusion": "concat"}},
}


@pytest.fixture
def project(tmp_path):
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "dvc.yaml").write_text("stages: {}\n")
    content = {"tasks": ["icu", "synthetic"], "per_task": PER_TASK, "split": {"seed": 3}}
    (folder / "params.yaml").write_text(yaml.safe_dump(content))
    return folder


@pytest.mark.parametrize("task", ["icu", "synthetic", "covid"])
def test_parameters_of_other_tasks_do_not_go_along(project, task, tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    create_workspace(work, task, project)
    params = load_params(work / "params.yaml")
    assert params.tasks == (task,)
    assert params.per_task == {name: own for name, own in PER_TASK.items() if name == task}
    assert params.split.seed == 3


def test_invalid_parameters_are_named_before_anything_is_copied(project, tmp_path):
    (project / "params.yaml").write_text("tasks: [icu]\nfuse: {fusio: late}\n")
    with pytest.raises(ParamsError, match="fusio"):
        create_workspace(tmp_path, "icu", project)


def test_each_stage_is_said_as_it_runs(tmp_path, caplog):
    stages = {name: {"cmd": f"echo secret of {name}"} for name in ("first", "second")}
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": stages}))
    dvc(tmp_path, "init", "--no-scm", "--quiet")
    with caplog.at_level(logging.INFO):
        dvc(tmp_path, "repro")
    assert [line for line in caplog.messages if line.startswith("Running stage")] == [
        "Running stage 'first':",
        "Running stage 'second':",
    ]
    assert not any("secret" in line for line in caplog.messages)
    shutil.rmtree(tmp_path / ".dvc")
