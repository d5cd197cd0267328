"""Examples: rows of a manifest CSV become the form's values, in its order."""

from pathlib import Path

import pytest

from app.ui.study_form import phantoms, read
from cxr_mm.core.errors import ManifestError
from cxr_mm.core.task import load_task


def test_fullest_rows_come_first_and_blanks_stay_blank(tmp_path):
    task = load_task("synthetic")
    features = ",".join(task.clinical_names)
    note = task.note.column
    blanks = "," * (len(task.clinical_names) - 1)
    (tmp_path / "image.png").touch()
    (tmp_path / "manifest.csv").write_text(
        f"study_id,patient_id,image_path,{note},{features}\n"
        f"s1,p1,gone.png,,{blanks}\n"
        f"s2,p2,image.png,Cough,61{blanks}\n"
    )
    first, second = read(tmp_path, task)
    assert first[:3] == [str(tmp_path / "image.png"), "Cough", "61"]
    assert second == [None, "", *[""] * len(task.clinical_names)]


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest\.csv"):
        read(tmp_path, load_task("synthetic"))


def test_phantoms_fill_the_form_of_the_synthetic_task(tmp_path):
    task = load_task("synthetic")
    rows = read(phantoms(tmp_path / "images", 4), task)
    assert len(rows) == 4
    image, note, *clinical = rows[0]
    assert Path(image).is_file()
    assert note
    assert len(clinical) == len(task.clinical)
