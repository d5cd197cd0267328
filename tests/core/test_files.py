"""Files appear whole or not at all."""

import errno
import json
import os
import stat
from contextlib import nullcontext

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from cxr_mm.core.errors import InputError, StorageError
from cxr_mm.core.files import (
    atomic_directory,
    atomic_write,
    check_replaceable,
    check_writable,
    read_json,
    save_tensors,
    sha256_file,
    shortened,
    to_json,
    write_json,
    write_parquet,
)


class InterruptedBodyError(Exception):
    """Stands for whatever stops a body halfway."""


def interrupted_file(path):
    with atomic_write(path) as aside:
        aside.write_text("half")
        raise InterruptedBodyError


def interrupted_folder(path):
    with atomic_directory(path) as aside:
        (aside / "half.txt").write_text("half")
        raise InterruptedBodyError


def test_file_takes_its_place_on_success(tmp_path):
    path = tmp_path / "deep" / "a.csv"
    with atomic_write(path) as aside:
        assert aside.suffix == ".csv"
        aside.write_text("new")
        assert not path.exists()
    assert path.read_text() == "new"
    assert list(path.parent.iterdir()) == [path]


def test_file_is_untouched_where_the_body_raises(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("old")
    with pytest.raises(InterruptedBodyError):
        interrupted_file(path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folder_replaces_the_old_one_as_a_whole(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "stale.txt").write_text("old")
    with atomic_directory(path) as aside:
        (aside / "new.txt").write_text("new")
        assert [p.name for p in path.iterdir()] == ["stale.txt"]
    assert [p.name for p in path.iterdir()] == ["new.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_folder_is_untouched_where_the_body_raises(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "a.txt").write_text("old")
    with pytest.raises(InterruptedBodyError):
        interrupted_folder(path)
    assert (path / "a.txt").read_text() == "old"
    assert [p.name for p in path.iterdir()] == ["a.txt"]
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_replaced_comes_back(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "old").touch()
    with pytest.raises(StorageError), atomic_directory(folder) as aside:
        aside.rmdir()
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]
    assert (folder / "old").is_file()


def test_json_has_null_for_what_is_no_number(tmp_path):
    value = {
        "b": [np.float32("nan"), float("inf"), np.int64(3)],
        "a": {"rows": np.array([[1.5, np.nan]]), "said": "Größe", "there": np.bool_(True)},
        7: (None, "x"),
    }
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == {
        "b": [None, None, 3],
        "a": {"rows": [[1.5, None]], "said": "Größe", "there": True},
        "7": [None, "x"],
    }
    assert list(json.loads(to_json(value))) == ["b", "a", "7"]


def test_json_that_cannot_be_written_leaves_the_old_one(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, 1)
    with pytest.raises(TypeError):
        write_json(path, {"x": object()})
    assert read_json(path) == 1


def test_parquet_gives_back_the_table(tmp_path):
    frame = pd.DataFrame({"id": ["a", None], "x": [1.5, np.nan], "yes": [True, False]})
    write_parquet(tmp_path / "a.parquet", frame)
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "a.parquet"), frame)
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_sha256_is_the_known_one(tmp_path):
    (tmp_path / "abc").write_bytes(b"abc")
    assert sha256_file(tmp_path / "abc").startswith("ba7816bf8f01cfea414140de5dae2223")


@pytest.fixture(params=[0o022, 0o027, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_files_have_the_mode_that_the_umask_gives(tmp_path, umask):
    write_json(tmp_path / "a.json", 1)
    write_parquet(tmp_path / "a.parquet", pd.DataFrame({"x": [1]}))
    with atomic_directory(tmp_path / "folder") as aside:
        save_tensors(aside / "a.safetensors", {"x": np.zeros(3)})
    assert mode(tmp_path / "folder") == 0o777 & ~umask
    for name in ("a.json", "a.parquet", "folder/a.safetensors"):
        assert mode(tmp_path / name) == 0o666 & ~umask


def test_tensors_keep_their_shape(tmp_path):
    given = {"number": np.array(3, dtype=np.int64), "turned": np.arange(6.0).reshape(2, 3).T}
    save_tensors(tmp_path / "a.safetensors", given)
    stored = load_file(tmp_path / "a.safetensors")
    for name, array in given.items():
        np.testing.assert_array_equal(stored[name], array)
        assert stored[name].shape == array.shape


@pytest.mark.parametrize("write", [atomic_write, atomic_directory])
def test_a_full_disk_is_one_typed_line_and_leaves_nothing(tmp_path, write):
    def fill():
        with write(tmp_path / "out.txt"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StorageError, match=r"out.txt: cannot be written \(No space left on device"):
        fill()
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_another_file_passes_as_it_is(tmp_path):
    def read():
        with atomic_write(tmp_path / "out.txt"):
            (tmp_path / "nowhere.txt").read_text()

    with pytest.raises(FileNotFoundError, match="nowhere"):
        read()


@pytest.mark.parametrize("name", ["file/out.txt", "x" * 300, "/proc/out.txt"])
def test_where_nothing_can_be_written_is_said_before_the_work(tmp_path, name):
    (tmp_path / "file").write_text("a file where a folder is needed")
    with pytest.raises(StorageError, match="cannot be written") as caught:
        check_writable(tmp_path / name)
    assert "x" * 300 not in str(caught.value)


def test_an_input_is_no_output(tmp_path):
    (tmp_path / "a.csv").write_text("1")
    (tmp_path / "link.csv").symlink_to("a.csv")
    with pytest.raises(InputError, match="is the input itself"):
        check_writable(tmp_path / "link.csv", [tmp_path / "a.csv"])


def test_a_name_that_no_file_can_have_is_not_repeated(tmp_path):
    assert shortened(tmp_path / "a.png") == str(tmp_path / "a.png")
    assert shortened(tmp_path / ("Fever. " * 99) / "a.png") == str(tmp_path / "…")


@pytest.mark.parametrize(
    ("content", "is_free"),
    [(None, True), ({}, True), ({"mark": "", "old": ""}, True), ({"own.txt": ""}, False)],
)
def test_a_folder_of_other_files_is_not_replaced(tmp_path, content, is_free):
    folder = tmp_path / "out"
    if content is not None:
        folder.mkdir()
        for name, text in content.items():
            (folder / name).write_text(text)
    with nullcontext() if is_free else pytest.raises(InputError, match="no earlier output"):
        check_replaceable(folder, "mark")
