"""Setting: overrides land where they belong, and folders differ where results may."""

import shutil
from pathlib import Path

import pytest
import yaml

from benchmarks.harness.runs import setting
from cxr_mm.core.errors import ParamsError


def test_an_override_is_on_top_of_the_tasks_own(project):
    found = setting("tiny", {"ingest": {"workers": 2}, "fuse": {"fusion": "gated"}})
    assert (found.params.ingest.size, found.params.ingest.workers) == (32, 2)
    assert (found.params.fuse.fusion, found.params.fuse.inner_folds) == ("gated", 2)


def test_an_override_is_on_top_of_what_params_yaml_says_of_the_task(project, monkeypatch, tmp_path):
    params = yaml.safe_load(Path("params.yaml").read_text())
    params |= {"tasks": ["tiny"], "per_task": {"tiny": {"fuse": {"seed": 7, "fusion": "gated"}}}}
    shutil.copytree("tasks", tmp_path / "tasks")
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    found = setting("tiny", {"fuse": {"fusion": "concat"}}).params.fuse
    assert (found.fusion, found.seed, found.inner_folds) == ("concat", 7, 2)


def test_the_split_may_be_another_than_the_tasks(project):
    found = setting("tiny", {"split": {"protocol": "folds", "folds": 3, "seed": 4}})
    assert (found.task.split.protocol, found.task.split.folds) == ("folds", 3)
    assert found.params.split.seed == 4


@pytest.mark.parametrize(
    "overrides", [{"split": {"folds": 1}}, {"fuse": {"depth": 2}}, {"cook": {"salt": 1}}]
)
def test_an_override_that_is_none_is_refused(project, overrides):
    with pytest.raises(ParamsError):
        setting("tiny", overrides)


def test_folders_differ_where_what_lies_in_them_may(project):
    default = setting("tiny", {})
    assert setting("tiny", {"ingest": {"size": 32}}).paths == default.paths
    assert setting("tiny", {"explain": {"gallery": 2}}).paths == default.paths
    fused = setting("tiny", {"fuse": {"seed": 1}})
    assert (fused.divided, fused.ingested) == (default.divided, default.ingested)
    assert fused.paths != default.paths
    divided = setting("tiny", {"split": {"protocol": "folds"}})
    assert divided.ingested == default.ingested
    assert divided.divided != default.divided
    assert setting("tiny", {"ingest": {"size": 64}}).ingested != default.ingested
