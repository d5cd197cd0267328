"""Outcomes from a CSV."""

import pytest

from cxr_mm.core.errors import ManifestError
from monitoring.window import read_outcomes


def read(tmp_path, text):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return read_outcomes(path, ["covid", "sars"], lambda study: f"hash of {study}")


def test_labels_are_hashed_and_empty_cells_left_out(tmp_path):
    found = read(tmp_path, "study_id,covid,other\n007,1,x\n8,,y\n9,0.0,z\n")
    assert [(o.study_hash, o.finding, o.label) for o in found] == [
        ("hash of 007", "covid", 1),
        ("hash of 9", "covid", 0),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("study,covid\n1,1\n", "study_id"),
        ("study_id,flu\n1,1\n", "covid, sars"),
        ("study_id,covid\n1,maybe\n", "labels.csv:2: covid: 'maybe' is no label"),
        ("study_id,covid\n1,1\n1,0\n", "labels.csv:3"),
        ("", "the file is empty"),
    ],
)
def test_bad_csv_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, text)
    assert said in str(caught.value)
