"""The folder of an experiment: parameters of its own task alone, and stages said as they run."""

import logging
import shutil

import pandas as pd
import pytest
import yaml

from cxr_mm.core.config import load_params
from cxr_mm.core.errors import ParamsError, StageError
from cxr_mm.core.files import write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Finding, load_task
from cxr_mm.data.manifest import finding_column, with_frequent_findings
from monitoring.retraining.experiment import create_workspace, dvc
from monitoring.retraining.retrain import question_of

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
    create_workspace(work, load_task(task), project)
    params = load_params(work / "params.yaml")
    assert params.tasks == (task,)
    assert params.per_task == {name: own for name, own in PER_TASK.items() if name == task}
    assert params.split.seed == 3


def test_invalid_parameters_are_named_before_anything_is_copied(project, tmp_path):
    (project / "params.yaml").write_text("tasks: [icu]\nfuse: {fusio: late}\n")
    with pytest.raises(ParamsError, match="fusio"):
        create_workspace(tmp_path, load_task("icu"), project)


def test_a_challenger_predicts_what_the_champion_does_however_many_positives_came_since(
    project, tmp_path
):
    shipped = load_task("nih")
    five = tuple(f for f in shipped.findings if f.name in ("edema", "effusion", "pneumonia"))
    champion = shipped.model_copy(update={"findings": five})
    create_workspace(tmp_path / "work", question_of(champion, project), project)
    found = load_task("nih", tmp_path / "work")
    paths = TaskPaths("nih", tmp_path)
    positives = {finding_column(name): [1.0] * 50 for name in shipped.finding_names}
    write_parquet(paths.manifest, pd.DataFrame(positives))
    assert len(with_frequent_findings(shipped, paths).findings) == 14
    assert with_frequent_findings(found, paths).findings == five
    assert (found.clinical, found.params) == (shipped.clinical, shipped.params)


def test_a_finding_that_the_task_no_longer_has_is_named(project):
    shipped = load_task("nih")
    scar = Finding(name="scar", title="Scar")
    champion = shipped.model_copy(update={"findings": (*shipped.findings, scar)})
    with pytest.raises(StageError, match="no longer has scar"):
        question_of(champion, project)


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
