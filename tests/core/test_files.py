"""Files appear whole or not at all."""

import json
import stat

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.files import (
    atomic_directory,
    atomic_write,
    read_json,
    sha256_file,
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
    assert stat.S_IMODE(path.stat().st_mode) == 0o644
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
