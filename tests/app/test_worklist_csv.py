"""Worklist CSV: what goes out can be read back, and no cell of it is computed by a spreadsheet."""

import csv
import io

import pandas as pd
import pytest

from cxr_mm.core.prediction import NOTICE, FindingPrediction, Prediction
from cxr_mm.core.task import load_task
from cxr_mm.inference.worklist import written

TASK = load_task("icu")
FORMULAS = [
    "=1+1",
    "+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "-inf",
    "--1",
    "=1;=2",
]
NUMBERS = ["-5", "+1.5", "-1e-3", "-.5", "007"]


def prediction(study_id="s", **changes):
    found = [
        FindingPrediction(
            finding=f.name, title=f.title, probability=0.25, threshold=0.4, positive=False
        )
        for f in TASK.findings
    ]
    values = {
        "study_id": study_id,
        "task": TASK.name,
        "model": "m",
        "digest": "d",
        "modalities": ("image", "note"),
        "findings": tuple(found),
        "warnings": ("first", "second; third"),
    }
    return Prediction(**(values | changes))


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_table_holds_every_finding_the_model_and_the_notice():
    table = pd.read_csv(io.StringIO(written([prediction("é"), prediction("b")], TASK)))
    assert list(table["study_id"]) == ["é", "b"]
    (row,) = table.head(1).to_dict("records")
    name = TASK.finding_names[0]
    assert row["modalities"] == "image+note"
    assert row["warnings"] == "first; second; third"
    assert row[f"probability.{name}"] == 0.25
    assert row[f"threshold.{name}"] == 0.4
    assert row[f"positive.{name}"] is False
    assert pd.isna(row[f"certainty.{name}"])
    assert (row["model"], row["digest"], row["notice"]) == ("m", "d", NOTICE)


def test_made_up_data_is_marked():
    assert "SYNTHETIC" in rows(written([prediction(synthetic=True)], TASK))[0]["notice"]


@pytest.mark.parametrize("text", FORMULAS)
def test_a_cell_that_a_spreadsheet_would_compute_is_made_text(text):
    (row,) = rows(written([prediction(text, warnings=(text,), model=text)], TASK))
    assert row["study_id"] == row["warnings"] == row["model"] == f"'{text}"


@pytest.mark.parametrize("text", NUMBERS)
def test_a_number_stays_what_it_is(text):
    assert rows(written([prediction(text)], TASK))[0]["study_id"] == text


def test_another_list_separator_splits_no_cell():
    line = written([prediction("a;=1+1")], TASK).splitlines()[1]
    assert line.startswith('"a;=1+1",')
