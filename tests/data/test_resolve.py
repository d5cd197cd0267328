"""`resolve` changes a file exactly where its content changed: that is what dvc reruns by."""

import json
import os
from pathlib import Path

import pytest

from cxr_mm.core.config import Params, SplitParams, for_task, load_params, with_split
from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.paths import DATA_ROOT_VARIABLE, TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.data.resolve import resolve

PARAMS = load_params(Path(__file__).parents[2] / "params.yaml")
LONG_AGO = 1_000_000_000


@pytest.fixture
def paths(tmp_path):
    return TaskPaths("synthetic", tmp_path)


def resolved(paths, task):
    """Run, and give the names of the files that were written."""
    for file in paths.resolved.glob("*"):
        os.utime(file, (LONG_AGO, LONG_AGO))
    resolve(task, for_task(PARAMS, task), paths, paths.root)
    return {f.stem for f in paths.resolved.iterdir() if f.stat().st_mtime != LONG_AGO}


def changed(**changes):
    return load_task("synthetic").model_copy(update=changes)


def test_one_file_a_section_besides_task_question_and_source(paths):
    sections = set(Params.model_fields) - {"tasks", "per_task"}
    sections |= {"task", "question", "source"}
    assert resolved(paths, load_task("synthetic")) == sections
    result = json.loads((paths.resolved / "ingest.json").read_text())
    assert result == {**PARAMS.ingest.model_dump(), "size": 160}
    assert json.loads((paths.resolved / "task.json").read_text())["name"] == "synthetic"


def test_a_second_run_writes_nothing(paths):
    resolved(paths, load_task("synthetic"))
    assert resolved(paths, load_task("synthetic")) == set()


def test_an_override_changes_its_own_section_alone(paths):
    resolved(paths, load_task("synthetic"))
    task = changed(params={**load_task("synthetic").params, "fuse": {"seed": 7}})
    assert resolved(paths, task) == {"fuse"}


def test_prose_changes_the_task_but_not_the_question(paths):
    resolved(paths, load_task("synthetic"))
    assert resolved(paths, changed(caveats=("Made up.",), title="Phantoms")) == {"task"}
    assert resolved(paths, changed(views=("PA",))) == {"task", "question"}


def test_nor_do_the_codes_of_findings(paths):
    task = load_task("synthetic")
    resolved(paths, task)
    bare = tuple(finding.model_copy(update={"code": None}) for finding in task.findings)
    assert resolved(paths, changed(findings=bare)) == {"task"}
    assert "code" not in json.loads((paths.resolved / "task.json").read_text())["findings"][0]


def test_another_split_leaves_the_question_and_so_the_manifest_alone(paths):
    resolved(paths, load_task("synthetic"))
    task = load_task("synthetic")
    folded = with_split(task, SplitParams(protocol="folds", folds=4))
    assert resolved(paths, folded) == {"task", "split"}
    assert json.loads((paths.resolved / "split.json").read_text())["spec"]["folds"] == 4


def test_what_no_section_is_called_is_removed(paths):
    resolved(paths, load_task("synthetic"))
    (paths.resolved / "gone.json").write_text("{}")
    resolved(paths, load_task("synthetic"))
    assert not (paths.resolved / "gone.json").exists()


def test_new_data_changes_the_source_alone(paths):
    source = load_task("synthetic").source
    task = changed(source=source.model_copy(update={"kind": "class_folders", "folder": "images"}))
    images = paths.root / "images"
    images.mkdir()
    (images / "a.png").write_bytes(b"1")
    resolved(paths, task)
    (images / "b.png").write_bytes(b"2")
    assert resolved(paths, task) == {"source"}


def test_a_queued_experiment_finds_the_data_of_its_project(tmp_path, monkeypatch):
    source = load_task("synthetic").source
    task = changed(source=source.model_copy(update={"kind": "class_folders", "folder": "images"}))
    root = Path("data") / "raw"
    (tmp_path / root / "images").mkdir(parents=True)
    (tmp_path / root / "images" / "a.png").write_bytes(b"1")
    experiment = tmp_path.joinpath(".dvc", "tmp", "exps", "tmp1")
    experiment.mkdir(parents=True)
    written = []
    for folder in (tmp_path, experiment):
        monkeypatch.chdir(folder)
        resolve(task, for_task(PARAMS, task), TaskPaths(task.name), root)
        written.append(Path("data/synthetic/resolved/source.json").read_bytes())
    assert written[0] == written[1]


def test_data_that_is_not_there_is_said_with_the_variable(tmp_path):
    task = load_task("pneumonia")
    paths = TaskPaths(task.name, tmp_path)
    with pytest.raises(DataNotFoundError, match=f"Set {DATA_ROOT_VARIABLE} to the folder"):
        resolve(task, for_task(PARAMS, task), paths, tmp_path / "nowhere")
    assert not paths.resolved.exists()
