"""Tables: what is written differently is read alike, and what cannot be read is named."""

import logging
import math

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.tables import is_missing, iter_table, read_table

WANTED = [["1", "Müller, heiser", "38,5"], ["2", None, None]]


def written(path, text, encoding="utf-8"):
    path.write_bytes(text.encode(encoding))
    return path


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ('id,note,t\n1,"Müller, heiser","38,5"\n2,,\n', "utf-8"),
        ('\ufeffid,note,t\r\n1,"Müller, heiser","38,5"\r\n2,,\r\n', "utf-8"),
        ("id;note;t\r\n1;Müller, heiser;38,5\r\n2;;\r\n", "cp1252"),
        ("sep=;\r\nid;note;t\r\n1;Müller, heiser;38,5\r\n2;;\r\n", "cp1252"),
        ("id\tnote\tt\n1\tMüller, heiser\t38,5\n2\t\t\n", "utf-16"),
        (' id , note,t,,\n1,"Müller, heiser ", "38,5" ,,\n\n2,NA,.,,\n', "utf-8"),
        ("id|note|t\n1|Müller, heiser|38,5\n2|#N/A|NULL\n", "utf-8"),
        ('id,note,t\n1,"Müller, heiser","38,5"\n2\n', "utf-8"),
    ],
)
def test_the_same_table_however_it_is_written(tmp_path, text, encoding):
    text = text.replace(' "38,5" ', '"38,5"')
    frame = read_table(written(tmp_path / "t.csv", text, encoding), ["id", "t"])
    assert list(frame.columns) == ["id", "note", "t"]
    assert frame.to_numpy().tolist() == WANTED


def test_what_was_found_and_what_was_left_out_are_said(tmp_path, caplog):
    path = written(tmp_path / "t.csv", "id;;t\n1;x;2\n2;;3\n", "cp1252")
    with caplog.at_level(logging.INFO):
        assert list(read_table(path).columns) == ["id", "t"]
    assert "cells separated by ';'" in caplog.text
    assert "1 cells in columns without a name are left out" in caplog.text


def test_pieces_join_to_the_whole(tmp_path):
    path = written(tmp_path / "t.csv", "id,x\n" + "".join(f"{k},{k}\n" for k in range(7)))
    pieces = list(iter_table(path, rows=3))
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    pd.testing.assert_frame_equal(pd.concat(pieces), read_table(path), check_index_type=False)
    empty = list(iter_table(written(tmp_path / "e.csv", "id,x\n")))
    assert [len(piece) for piece in empty] == [0]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty"),
        (b"id,x,id\n1,2,3\n", "id: the name stands twice in the header"),
        (b"id,x\n1,2,3\n", "line 2 has 3 cells, the header 2"),
        (b'id,x\n1,"open\n', "not a CSV"),
        (b"id\x00,x\n", "not a CSV but other data"),
        (b"\x89PNG\r\n\x1a\n", "not a CSV but other data"),
        (b"id,x\n1,\x81\n", "neither UTF-8, UTF-16 nor Windows-1252"),
        (b"name,x\n1,2\n", r"id: the column is missing \(there are name, x\)"),
    ],
)
def test_what_is_no_table_is_one_line_that_names_the_file(tmp_path, data, message):
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(ManifestError, match=message) as caught:
        read_table(path, ["id"])
    assert str(path) in str(caught.value)
    for jargon in ("Error tokenizing", "codec can't", "pandas"):
        assert jargon not in str(caught.value)


AGE = ClinicalFeature(name="age", title="Age", type="number", unit="a", minimum=0, maximum=120)
CRP = ClinicalFeature(name="crp", title="CRP", type="number", minimum=0, maximum=500000)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("38,5", 38.5), ("1.045,5", 1045.5), ("1,045.5", 1045.5), ("2,345,678.5", None), ("12", 12.0),
     ("1e2", 100.0), ("<250", 250.0), ("> 89", 89.0), ("≤0,5", 0.5), ("NULL", None), (".", None)],
)  # fmt: skip
def test_numbers_are_read_as_tables_write_them(cell, value):
    checked = check_clinical([CRP], {"crp": cell})
    assert checked["crp"] == value
    assert [fault.message for fault in checked.faults] == (
        ["2,345,678.5 is out of range"] if cell == "2,345,678.5" else []
    )


@pytest.mark.parametrize("cell", ["1,045", "4_5", "-inf", "12 or so", "1.2.3", "٣"])
def test_what_may_be_read_in_two_ways_is_no_number(cell):
    checked = check_clinical([CRP], {"crp": cell})
    assert checked["crp"] is None
    assert "is no number" in checked.warnings[0]


def test_a_limit_may_count_as_unknown_and_ages_have_units():
    unknown = CRP.model_copy(update={"limits": "unknown"})
    assert check_clinical([unknown], {"crp": "<5"})["crp"] is None
    for cell, years in (("045Y", 45), ("006M", 0.5), (">89", 89), ("63", 63)):
        assert check_clinical([AGE], {"age": cell})["age"] == years


@pytest.mark.parametrize("cell", [None, "", " n/a ", math.nan, np.float32("nan"), pd.NA])
def test_what_means_that_nothing_is_known(cell):
    assert is_missing(cell)


@pytest.mark.parametrize("cell", ["0", 0.0, 5, np.zeros(2)])
def test_what_is_known(cell):
    assert not is_missing(cell)
