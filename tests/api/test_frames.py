"""A DataFrame becomes the table that a user would have written; images in memory become files."""

import numpy as np
import pandas as pd
import pytest

from cxr_mm.api.frames import write_table
from cxr_mm.api.training import _of_table
from cxr_mm.core.config import Params, for_task
from cxr_mm.core.errors import ManifestError, RadiographError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import task_of
from cxr_mm.data.ingest import ingest
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.sources.manifest_csv import read_manifest_csv

OPTIONS = {"study_column": "Exam", "image_column": "Image file", "images": "elsewhere"}
TASK = task_of(
    {
        "name": "own",
        "title": "Own",
        "problem": "binary",
        "findings": [{"name": "edema", "title": "Edema", "column": "Oedema"}],
        "clinical": [
            {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
        ],
        "note": {"column": "history; indication"},
        "source": {"kind": "manifest_csv", "folder": "own", "options": OPTIONS},
        "split": {"protocol": "patient"},
        "licence": "none",
        "citation": "none",
    }
)
GREY = (np.random.default_rng(0).random((40, 32)) * 255).astype(np.uint8)


def a_table(**changes):
    columns = {
        "Exam": [7, 8, 9],
        "patient_id": ["p", "p", "q"],
        "Image file": [GREY, "b.png", None],
        "age": [63.5, np.nan, 40],
        "history; indication": ['Fever,\n"cough"', None, "NA"],
        "Oedema": [True, False, pd.NA],
    }
    return pd.DataFrame({**columns, **changes})


def test_cells_are_read_as_they_were_given(tmp_path):
    path = write_table(TASK, a_table(), tmp_path, "images")
    frame = read_manifest_csv(path, TASK, "train")
    assert frame["study_id"].tolist() == ["7", "8", "9"]
    assert frame["history; indication"].tolist() == ['Fever,\n"cough"', None, None]
    assert frame["age"].tolist() == ["63.5", None, "40.0"]
    files = frame["image_path"].tolist()
    assert files[0] == str(tmp_path / "000000.png")
    assert files[1].endswith("/images/b.png")
    assert files[2] is None


def test_a_task_is_ingested_from_arrays_under_its_own_names_of_columns(tmp_path):
    path = write_table(TASK, a_table(**{"Image file": [GREY, GREY.T, GREY]}), tmp_path / "source")
    task, paths = _of_table(TASK, path), TaskPaths(TASK.name, tmp_path)
    small = task.model_copy(update={"params": {"ingest": {"size": 32}}})
    params = for_task(Params(tasks=("own",)), small)
    ingest(task, params, paths, tmp_path)
    manifest = load_manifest(paths, task)
    assert manifest.frame["study_id"].tolist() == ["7", "8"]  # the third has no label
    assert manifest.labels()[:, 0].tolist() == [1, 0]
    assert manifest.mask()[:, 0].all()


def test_the_index_stands_for_a_missing_id(tmp_path):
    table = a_table().drop(columns="Exam").set_axis(["x", "y", "z"])
    frame = read_manifest_csv(write_table(TASK, table, tmp_path), TASK, "predict")
    assert frame["study_id"].tolist() == ["x", "y", "z"]
    twice = write_table(TASK, table.set_axis(["x", "x", "z"]), tmp_path)
    with pytest.raises(ManifestError, match="'x' occurs twice"):
        read_manifest_csv(twice, TASK, "predict")


def test_an_array_that_is_no_radiograph_names_its_row(tmp_path):
    table = a_table(**{"Image file": [GREY, np.zeros((40, 40), np.int64), None]})
    with pytest.raises(RadiographError, match="the DataFrame, row 1: image: an array of int64"):
        write_table(TASK, table, tmp_path)
