import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.task import Task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import read_source
from tests.data.sources.test_dicom_folder import write as write_dicom


def task(**options):
    return Task.model_validate(
        {
            "name": "tree",
            "title": "Tree",
            "problem": "binary",
            "findings": [
                {
                    "name": "sick",
                    "title": "Sick",
                    "column": "label",
                    "positive": ["SICK"],
                    "negative": ["WELL"],
                }
            ],
            "source": {"kind": "class_folders", "folder": "tree", "options": options},
            "split": {"protocol": "patient"},
            "licence": "none",
            "citation": "none",
        }
    )


def plant(root, *names):
    for name in names:
        file = root / "tree" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.suffix in (".png", ".jpg"):
            Image.new("L", (8, 8)).save(file)
        else:
            file.write_bytes(b"")


def test_class_is_the_label(tmp_path):
    plant(tmp_path, "SICK/a.png", "WELL/deep/b.jpg", "WELL/c.dcm", "WELL/readme.txt", "stray.png")
    frame = read_source(task(), tmp_path, tmp_path / "w").frame
    assert dict(zip(frame["study_id"], frame["label"], strict=True)) == {
        "SICK/a.png": "SICK",
        "WELL/deep/b.jpg": "WELL",
        "WELL/c.dcm": "WELL",
    }
    assert frame["part"].isna().all()
    assert frame["patient_id"].is_unique


def test_parts_and_patients(tmp_path):
    names = ("train/SICK/p1_1.png", "val/WELL/p1_2.png", "test/WELL/p2_1.png", "test/SICK/odd.png")
    plant(tmp_path, *names)
    raw = read_source(task(patient_pattern=r"(p\d+)_"), tmp_path, tmp_path / "w")
    rows = raw.frame.set_index("study_id")
    assert rows["part"].to_dict() == {names[0]: "train", names[1]: "train", names[2]: "test"}
    assert rows["patient_id"].to_dict() == {names[0]: "p1", names[1]: "p1", names[2]: "p2"}
    assert [d.study_id for d in raw.dropped] == ["test/SICK/odd.png"]


@pytest.mark.parametrize(
    ("top", "part"),
    [("Train", "train"), ("TRAINING", "train"), ("Val", "train"), ("Testing", "test")],
)
def test_parts_in_any_case_and_below_another_folder_are_no_classes(tmp_path, top, part):
    plant(tmp_path, f"{top}/SICK/a.png", f"chest_xray/{top}/WELL/b.png", f"{top}/sick/c.png")
    frame = read_source(task(), tmp_path, tmp_path / "w").frame
    assert sorted(frame["label"]) == ["SICK", "SICK", "WELL"]
    assert set(frame["part"]) == {part}


def test_masks_are_not_trained_on(tmp_path):
    images = ("SICK/images/a.png", "WELL/images/b.png", "images/WELL/c.png")
    masks = ("SICK/masks/a.png", "WELL/lung masks/b.png", "masks/WELL/c.png", "SICK/a_mask.png")
    plant(tmp_path, *images, *masks)
    raw = read_source(task(), tmp_path, tmp_path / "w")
    assert sorted(raw.frame["study_id"]) == sorted(images)
    assert raw.passed_over == {"masks": 4}


def test_files_passed_over_are_counted_by_kind(tmp_path):
    plant(tmp_path, "SICK/a.png", "SICK/b.BMP", "SICK/c.dcm.gz", "SICK/d.tif", "WELL/e", "f.jfif")
    plant(tmp_path, "g.png")
    raw = read_source(task(), tmp_path, tmp_path / "w")
    assert raw.passed_over == {
        ".bmp": 1,
        ".dcm.gz": 1,
        ".tif": 1,
        "without a suffix": 1,
        ".jfif": 1,
        "outside the class folders": 1,
    }


def test_patients_of_dicom_files_are_those_of_the_header(tmp_path):
    for name, patient in (("SICK/a", "p1"), ("WELL/b", "p1"), ("WELL/c", "p2"), ("WELL/d", "")):
        write_dicom(tmp_path / "tree" / f"{name}.dcm", PatientID=patient)
    raw = read_source(task(), tmp_path, tmp_path / "w")
    assert raw.frame["patient_id"].tolist() == ["p1", "p1", "p2", "WELL/d.dcm"]
    (notice,) = raw.notices
    assert "the patient of 1 image is not known" in notice
    by_name = read_source(task(patient_pattern="(.)[.]dcm"), tmp_path, tmp_path / "w")
    assert by_name.frame["patient_id"].tolist() == list("abcd")
    assert by_name.notices == ()


def test_becomes_a_manifest(tmp_path):
    plant(tmp_path, "SICK/a.png", "WELL/b.png", "OTHER/c.png")
    labelled = to_manifest(task(), read_source(task(), tmp_path, tmp_path / "w"))
    assert labelled.manifest.labels().ravel().tolist() == [1.0, 0.0]
    assert [d.study_id for d in labelled.dropped] == ["OTHER/c.png"]


@pytest.mark.parametrize("pattern", ["p(", "p1"])
def test_bad_pattern_names_the_option(tmp_path, pattern):
    plant(tmp_path, "SICK/a.png")
    with pytest.raises(TaskError, match=r"source\.options\.patient_pattern"):
        read_source(task(patient_pattern=pattern), tmp_path, tmp_path / "w")


def test_no_image_is_an_error(tmp_path):
    plant(tmp_path, "stray.png")
    with pytest.raises(DataNotFoundError, match="no image in a class folder"):
        read_source(task(), tmp_path, tmp_path / "w")
