import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.task import load_task
from cxr_mm.data.fetch import fetch


def downloading(name, download, **fields):
    task = load_task(name)
    source = task.source.model_copy(update={"download": download, **fields})
    return task.model_copy(update={"source": source})


@pytest.fixture
def origin(tmp_path):
    folder = tmp_path / "origin"
    (folder / "images").mkdir(parents=True)
    (folder / "images/a.png").write_bytes(b"")
    (folder / "metadata.csv").write_text("patientid\n1\n")
    git = ["git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "all"]):
        subprocess.run([*git, *command], check=True)
    return folder


@pytest.fixture
def kagglehub(monkeypatch):
    names = ("Backend", "Credential", "DataCorruption", "NotFound", "Unauthenticated")
    faults = {f"{name}Error": type(f"{name}Error", (Exception,), {}) for name in names}
    module = ModuleType("kagglehub")
    module.exceptions = SimpleNamespace(**faults)
    monkeypatch.setitem(sys.modules, "kagglehub", module)
    return module


def test_clone_comes_out_in_the_sources_layout(origin, tmp_path):
    task = downloading("covid", f"git:file://{origin}")
    folder = fetch(task, tmp_path / "data")
    assert (folder / "metadata.csv").is_file()
    assert [p.name for p in folder.parent.iterdir()] == ["covid-chestxray-dataset"]


def test_what_is_there_is_not_fetched_again(origin, tmp_path):
    task = downloading("covid", "git:file:///nowhere", folder=str(origin))
    assert fetch(task, tmp_path) == origin


def test_of_merged_sources_each_that_is_missing_is_fetched(origin, tmp_path):
    task = load_task("pneumonia_sites")
    members = task.source.options["members"]
    only = {name: members[name] | {"folder": str(origin)} for name in ("covid", "nih")}
    only["covid"] |= {"download": "git:file:///nowhere"}
    only["nih"] |= {"kind": "cohen", "options": {}, "folder": "nih"}
    only["nih"] |= {"download": f"git:file://{origin}"}
    source = task.source.model_copy(update={"options": {"members": only}})
    root = tmp_path / "data"
    assert fetch(task.model_copy(update={"source": source}), root) == root
    assert (root / "nih/metadata.csv").is_file()


def test_failed_clone_leaves_nothing_and_says_what_to_do(tmp_path):
    task = downloading("covid", f"git:file://{tmp_path}/nowhere")
    with pytest.raises(DataNotFoundError, match=r"git clone failed.*By hand: git clone") as error:
        fetch(task, tmp_path / "data")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_no_git(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DataNotFoundError, match="git is not installed"):
        fetch(load_task("covid"), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_clone_of_something_else_is_refused(origin, tmp_path):
    task = downloading("pneumonia", f"git:file://{origin}")
    with pytest.raises(DataNotFoundError, match="not as expected: no train/NORMAL"):
        fetch(task, tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_part_of_the_data_is_never_overwritten(origin, tmp_path):
    stored = tmp_path / "data/covid-chestxray-dataset/metadata.csv"
    stored.parent.mkdir(parents=True)
    stored.write_text("mine")
    with pytest.raises(DataNotFoundError, match="Move it away"):
        fetch(downloading("covid", f"git:file://{origin}"), tmp_path / "data")
    assert stored.read_text() == "mine"


def test_kaggle_needs_kagglehub(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "kagglehub", None)
    with pytest.raises(
        DataNotFoundError, match=r"pip install kagglehub.*kaggle\.com/datasets/paul"
    ):
        fetch(load_task("pneumonia"), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_kaggle_archive_with_a_folder_on_top(tmp_path, kagglehub):
    def dataset_download(handle):
        assert handle == "paultimothymooney/chest-xray-pneumonia"
        for part in ("train", "test"):
            for name in ("NORMAL", "PNEUMONIA"):
                (tmp_path / "cache/1/chest_xray" / part / name).mkdir(parents=True)
        (tmp_path / "cache/1/chest_xray/train/NORMAL/IM-1-1.jpeg").write_bytes(b"x")
        return str(tmp_path / "cache/1")

    kagglehub.dataset_download = dataset_download
    folder = fetch(load_task("pneumonia"), tmp_path / "data")
    assert (folder / "train/NORMAL/IM-1-1.jpeg").read_bytes() == b"x"


@pytest.mark.parametrize("error", ["OSError", "CredentialError", "NotFoundError"])
def test_failed_kaggle_download(tmp_path, kagglehub, error):
    fault = getattr(kagglehub.exceptions, error, OSError)

    def dataset_download(handle):
        raise fault("no network\nsecond line")

    kagglehub.dataset_download = dataset_download
    with pytest.raises(DataNotFoundError, match=r"failed \(no network\)") as caught:
        fetch(load_task("effusion"), tmp_path / "data")
    assert "images*" in str(caught.value)
    assert list((tmp_path / "data").iterdir()) == []


def test_interrupted_download_leaves_nothing(tmp_path, kagglehub):
    def dataset_download(handle):
        raise KeyboardInterrupt

    kagglehub.dataset_download = dataset_download
    with pytest.raises(KeyboardInterrupt):
        fetch(load_task("effusion"), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"download": ""}, "names no download"),
        ({"download": "kaggle:a/b", "kind": "synthetic"}, "its data is made up"),
        ({"download": "ftp:somewhere"}, "neither kaggle"),
    ],
)
def test_nothing_to_fetch(tmp_path, fields, message):
    with pytest.raises(TaskError, match=message):
        fetch(downloading("pneumonia", **fields), Path(tmp_path) / "data")
