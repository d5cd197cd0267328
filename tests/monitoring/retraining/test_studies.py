"""What is handed in, joined with the log and divided by time and patient."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxr_mm.core.errors import ManifestError, StageError
from cxr_mm.core.record import Outcome
from cxr_mm.core.task import Finding, Task
from cxr_mm.data.additions import read_addition
from monitoring.retraining.studies import labelled_studies, newest_patients, write_studies

START = datetime(2026, 3, 1, tzinfo=UTC)


def task_of(**finding):
    return Task.model_validate(
        {
            "name": "own",
            "title": "Own",
            "problem": "binary",
            "findings": [Finding(name="edema", title="Edema", **finding)],
            "note": {},
            "source": {"kind": "manifest_csv"},
            "split": {"protocol": "patient"},
            "licence": "none",
            "citation": "none",
        }
    )


def hashed(name):
    return f"hash of {name}"


def outcome(study, label):
    return Outcome(study_hash=hashed(study), finding="edema", label=label, recorded_at=START)


def handed_in(folder, rows, header="study_id,patient_id,note,edema"):
    folder.mkdir(exist_ok=True)
    (folder / "manifest.csv").write_text("\n".join([header, *rows]))
    return folder


def labelled(folder, outcomes=(), studies=60, task=None):
    when = {
        hashed(f"s{i}"): np.datetime64("2026-03-01") + np.timedelta64(i, "h")
        for i in range(studies)
    }
    return labelled_studies(task or task_of(), folder, when, outcomes, hashed)


def rows(number, label="1", patient=lambda i: i // 2):
    return [f"s{i},p{patient(i)},fever,{label}" for i in range(number)]


def test_labels_come_from_the_folder_and_from_the_log(tmp_path):
    own = [f"s{i},p{i},fever,{'' if i % 2 else 1}" for i in range(60)]
    found = labelled(handed_in(tmp_path, own), [outcome(f"s{i}", 0) for i in range(1, 60, 2)])
    assert found.labels["edema"].tolist() == [1.0, 0.0] * 30
    assert found.left_out == {"not in the window of the log": 0, "no label": 0}


def test_a_folder_needs_no_label_column_where_the_log_has_the_labels(tmp_path):
    plain = [f"s{i},p{i},fever" for i in range(60)]
    folder = handed_in(tmp_path, plain, "study_id,patient_id,note")
    found = labelled(folder, [outcome(f"s{i}", i % 2) for i in range(50)])
    assert len(found.frame) == 50
    assert found.left_out["no label"] == 10


def test_a_label_that_the_log_contradicts_names_the_study(tmp_path):
    folder = handed_in(tmp_path, rows(60))
    with pytest.raises(ManifestError, match="'s7' is 1 here and 0 in the log"):
        labelled(folder, [outcome("s7", 0), outcome("s8", 1)])


def test_studies_outside_the_window_are_left_out_and_counted(tmp_path):
    found = labelled(handed_in(tmp_path, rows(70)))
    assert found.left_out["not in the window of the log"] == 10
    assert "s65" not in set(found.frame["study_id"])


def test_the_newest_patients_are_kept_back_whole(tmp_path):
    found = labelled(handed_in(tmp_path, rows(60)))
    newest, older = found.frame[found.newest], found.frame[~found.newest]
    assert newest["study_id"].tolist() == [f"s{i}" for i in range(36, 60)]
    assert not set(newest["patient_id"]) & set(older["patient_id"])


def test_an_old_study_of_a_new_patient_is_kept_back_too():
    patients = pd.Series(["a", "b", "c", "a"])
    times = pd.Series(pd.to_datetime([START + timedelta(days=i) for i in range(4)], utc=True))
    assert newest_patients(patients, times, 0.4).tolist() == [True, False, False, True]


@pytest.mark.parametrize("share", [0.1, 0.4, 0.9])
def test_at_least_the_share_is_kept_back_and_hardly_more(share):
    rng = np.random.default_rng(0)
    patients = pd.Series(rng.integers(0, 80, 200)).map("p{}".format)
    times = pd.Series(pd.to_datetime(START + pd.to_timedelta(rng.random(200), unit="D")))
    stored = newest_patients(patients, times, share).mean()
    assert share <= stored <= share + patients.value_counts().max() / 200


def test_too_few_labelled_studies_are_refused(tmp_path):
    with pytest.raises(StageError, match="are the least"):
        labelled(handed_in(tmp_path, rows(30)))


def test_a_study_without_a_patient_is_refused_by_name(tmp_path):
    table = rows(60)
    table[5] = "s5,,fever,1"
    with pytest.raises(ManifestError, match="'s5' has none"):
        labelled(handed_in(tmp_path, table))


@pytest.mark.parametrize(
    ("finding", "cell"),
    [
        ({}, ("1", "0")),
        ({"column": "edema", "positive": ("Yes",), "negative": ("No",)}, ("Yes", "No")),
        ({"column": "diagnosis", "positive": ("Edema",), "negative": ("*",)}, ("1", "0")),
        ({"positive": ("Edema",), "negative": ("*",)}, ("Edema", "None")),
    ],
)
def test_what_is_written_is_read_again_by_the_rules_of_the_task(tmp_path, finding, cell):
    task = task_of(**finding)
    own = [f"s{i},p{i},fever,{cell[i % 2]}" for i in range(60)]
    found = labelled(handed_in(tmp_path / "given", own), task=task)
    folder = tmp_path / "written"
    write_studies(task, found.frame, found.labels, folder)
    manifest = read_addition(task, folder).manifest
    assert manifest.labels()[:, 0].tolist() == [1.0, 0.0] * 30
    assert manifest.frame["note"].tolist() == ["fever"] * 60


def test_images_are_copied_under_numbers_and_a_study_whose_image_is_gone_keeps_its_note(tmp_path):
    task = task_of()
    given = tmp_path / "given"
    given.mkdir()
    (given / "Doe_Jane.PNG").write_bytes(b"an image")
    own = [f"s{i},p{i},fever,1," for i in range(60)]
    own[0] += "Doe_Jane.PNG"
    own[1] += "gone.png"
    handed_in(given, own, "study_id,patient_id,note,edema,image_path")
    found = labelled(given)
    write_studies(task, found.frame, found.labels, tmp_path / "written")
    assert [p.name for p in (tmp_path / "written/images").iterdir()] == ["000000.png"]
    assert "Doe" not in (tmp_path / "written/manifest.csv").read_text()
    read = read_addition(task, tmp_path / "written")
    assert Path(str(read.manifest.frame["image_path"].iloc[0])).read_bytes() == b"an image"
    assert read.dropped == []
    assert read.manifest.frame["note"].tolist()[1] == "fever"
