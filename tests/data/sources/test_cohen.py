import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import load_task
from cxr_mm.data.sources import read_source

DEFAULT = {
    "view": "PA",
    "modality": "X-ray",
    "folder": "images",
    "finding": "COVID-19",
    "clinical_notes": "Fever.",
    "location": "Italy",
    "url": "https://www.nejm.org/doi/full/10.1056/1",
    "went_icu": "Y",
    "pO2_saturation": "90",
    "leukocyte_count": "7",
}


def write(root, rows):
    folder = root / "covid-chestxray-dataset"
    (folder / "images").mkdir(parents=True)
    frame = pd.DataFrame([DEFAULT | row for row in rows])
    frame.to_csv(folder / "metadata.csv", index=False)
    for name in set(frame["filename"]) - {"gone.png"}:
        Image.new("L", (8, 8)).save(folder / "images" / name)


def read(root):
    return read_source(load_task("covid"), root, root / "work")


def test_names_columns_as_tasks_do(tmp_path):
    write(tmp_path, [{"patientid": "7", "filename": "a.png"}])
    row = read(tmp_path).frame.iloc[0]
    assert row["study_id"] == "7/a.png"
    assert row["note"] == "Fever."
    assert row["site"] == "Italy"
    assert row["publisher"] == "nejm.org"
    assert row["po2_saturation"] == "90"
    assert row["leukocytes"] == "7"
    assert row["went_icu"] == "Y"


def test_findings_of_old_and_new_releases(tmp_path):
    found = ["COVID-19, ARDS", "Pneumonia/Viral/COVID-19", "No Finding", "todo", None]
    rows = [
        {"patientid": str(i), "filename": f"{i}.png", "finding": f} for i, f in enumerate(found)
    ]
    write(tmp_path, rows)
    findings = read(tmp_path).frame["finding"]
    assert findings[:4].tolist() == ["COVID-19|ARDS", "COVID-19", "No Finding", "todo"]
    assert findings.isna().tolist()[4]


def test_what_is_no_radiograph_or_not_there_is_dropped(tmp_path):
    write(
        tmp_path,
        [
            {"patientid": "1", "filename": "a.png"},
            {"patientid": "1", "filename": "a.png"},
            {"patientid": "2", "filename": "gone.png"},
            {"patientid": "3", "filename": "c.png", "modality": "CT"},
        ],
    )
    raw = read(tmp_path)
    assert raw.frame["study_id"].tolist() == ["1/a.png"]
    assert [d.reason for d in raw.dropped] == [
        "the same patient and file occur twice",
        "the image file is not there",
        "dicom_modality CT, not X-ray",
    ]


def test_files_that_the_table_does_not_name_are_counted(tmp_path):
    rows = [{"patientid": "1", "filename": "a.png"}]
    write(tmp_path, [*rows, {"patientid": "2", "filename": "c.png", "modality": "CT"}])
    for name in ("x.png", "y.jpg", "scan.nii.gz"):
        (tmp_path / "covid-chestxray-dataset/images" / name).write_bytes(b"")
    raw = read(tmp_path)
    assert raw.passed_over == {"images that the table does not name": 2, ".nii.gz": 1}


def test_patients_who_share_a_file_form_one_group(tmp_path):
    pairs = [("1", "a.png"), ("2", "a.png"), ("2", "b.png"), ("3", "b.png"), ("4", "c.png")]
    write(tmp_path, [{"patientid": p, "filename": f} for p, f in pairs])
    raw = read(tmp_path)
    assert raw.frame["study_id"].is_unique
    groups = raw.frame.set_index("patient_id")["group"]
    assert groups[["1", "3"]].nunique() == 1
    assert groups["4"] not in set(groups[["1", "2", "3"]])


def early(**only):
    task = load_task("icu_early")
    source = task.source.model_copy(update={"options": {"only": only}})
    return task.model_copy(update={"source": source})


def test_only_the_population_asked_for_is_used(tmp_path):
    values = {"a.png": "N", "b.png": "Y", "c.png": None}
    rows = [{"patientid": "1", "filename": f, "in_icu": v} for f, v in values.items()]
    write(tmp_path, rows)
    raw = read_source(load_task("icu_early"), tmp_path, tmp_path / "work")
    assert raw.frame["study_id"].tolist() == ["1/a.png"]
    assert [d.reason for d in raw.dropped] == ["in_icu is Y", "in_icu is not stated"]


def test_a_population_is_asked_for_by_columns_of_the_original(tmp_path):
    write(tmp_path, [{"patientid": "7", "filename": "a.png"}])
    raw = read_source(early(location=["Italy"]), tmp_path, tmp_path / "work")
    assert raw.frame["site"].tolist() == ["Italy"]
    with pytest.raises(DataNotFoundError, match="no column ward"):
        read_source(early(ward=["A"]), tmp_path, tmp_path / "work")


def test_another_table_is_refused(tmp_path):
    folder = tmp_path / "covid-chestxray-dataset"
    (folder / "images").mkdir(parents=True)
    (folder / "metadata.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataNotFoundError, match="no column patientid"):
        read(tmp_path)


def test_real_counts(data_root, tmp_path):
    raw = read_source(load_task("covid"), data_root, tmp_path)
    frame = raw.frame
    assert (len(frame), len(frame) + len(raw.dropped)) == (475, 751)
    assert frame["image_path"].nunique() == 471
    assert frame["patient_id"].nunique() == 290
    assert frame["group"].nunique() == 288
    assert frame["note"].notna().sum() == 456
    assert frame["went_icu"].value_counts()[["Y", "N"]].tolist() == [138, 46]
