"""Examples: rows of a manifest CSV become the form's values, in its order."""

import pytest

from app.examples import read
from cxr_mm.data.tasks import load_task
from cxr_mm.errors import ManifestError


def test_fullest_rows_come_first_and_blanks_stay_blank(tmp_path):
    task = load_task("synthetic")
    features = ",".join(task.clinical_names)
    note = task.note.column
    blanks = "," * (len(task.clinical_names) - 1)
    (tmp_path / "film.png").touch()
    (tmp_path / "manifest.csv").write_text(
        f"study_id,patient_id,image_path,{note},{features}\n"
        f"s1,p1,gone.png,,{blanks}\n"
        f"s2,p2,film.png,Cough,61{blanks}\n"
    )
    first, second = read(tmp_path, task)
    assert first[:3] == [str(tmp_path / "film.png"), "Cough", "61"]
    assert second == [None, "", *[""] * len(task.clinical_names)]


def test_a_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(ManifestError, match=r"manifest\.csv"):
        read(tmp_path, load_task("synthetic"))
