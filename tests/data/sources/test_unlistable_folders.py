"""A folder that this account may not list is an error, never a smaller data set."""

import errno
import os

import pytest
from PIL import Image

from cxr_mm.cli.doctor import describe_task
from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import load_task
from cxr_mm.data.sources import fingerprint, missing_in, read_source

FOLDERS = ("train/NORMAL", "train/PNEUMONIA", "test/NORMAL", "test/PNEUMONIA")


@pytest.fixture
def root(tmp_path):
    for folder in FOLDERS:
        (tmp_path / "chest_xray" / folder / "more").mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "chest_xray" / folder / "more/a.jpeg")
    return tmp_path


@pytest.fixture
def forbid(monkeypatch):
    """A function that makes a folder one without permission; chmod does not bind root."""
    scandir = os.scandir

    def forbid(folder):
        def denied(path):
            if os.fspath(path) == os.fspath(folder):
                raise PermissionError(errno.EACCES, "Permission denied", os.fspath(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)

    return forbid


def test_a_folder_that_cannot_be_listed_is_named_with_the_remedy(root, forbid):
    task, hidden = load_task("pneumonia"), root / "chest_xray/train/NORMAL/more"
    forbid(hidden)
    for read in (lambda: read_source(task, root, root / "work"), lambda: fingerprint(task, root)):
        with pytest.raises(
            DataNotFoundError, match=r"listed \(Permission denied\).*permission"
        ) as e:
            read()
        assert e.value.field == str(hidden)


def test_a_folder_that_cannot_be_listed_is_not_called_incomplete(root, forbid):
    task, hidden = load_task("pneumonia"), root / "chest_xray/train"
    forbid(hidden)
    with pytest.raises(DataNotFoundError, match="cannot be listed") as caught:
        missing_in(task, root / "chest_xray")
    assert caught.value.field == str(hidden)
    assert describe_task("pneumonia", root).endswith(str(caught.value))


def test_the_images_of_nih14_are_not_fewer_for_want_of_permission(tmp_path, forbid):
    images = tmp_path / "nih-chest-xray14/images_001"
    images.mkdir(parents=True)
    header = "Image Index,Patient ID,Patient Age,Patient Gender,View Position,Follow-up #,"
    table = images.parent / "Data_Entry_2017.csv"
    table.write_text(header + "Finding Labels\na.png,1,40,F,PA,0,Effusion\n")
    forbid(images)
    with pytest.raises(DataNotFoundError, match="images_001: the folder cannot be listed"):
        read_source(load_task("effusion"), tmp_path, tmp_path / "work")
