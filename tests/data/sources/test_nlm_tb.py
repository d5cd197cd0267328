import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import load_task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import read_source

SHENZHEN, MONTGOMERY = "ChinaSet_AllFiles/CXR_png", "Montgomery/MontgomerySet/CXR_png"
READINGS = {
    "CHNCXR_0001_0": "male 45yrs\nnormal",
    "CHNCXR_0327_1": "\nFemale, 28yrs\nbilateral PTB\n",
    "CHNCXR_0024_0": "femal 16month\nnormal",
    "MCUCXR_0001_0": "Patient's Sex: F\nPatient's Age: 027Y\nnormal\n",
    "MCUCXR_0104_1": "Patient's Sex: O\nPatient's Age: 006Y\ncavitary infiltrate, 12 months old",
}


def picture(folder, name):
    folder.mkdir(parents=True, exist_ok=True)
    Image.new("L", (8, 8)).save(folder / name)


@pytest.fixture
def root(tmp_path):
    """Both sets in the layout of their download, five images."""
    top = tmp_path / "nlm-tb"
    for name, text in READINGS.items():
        images = top / (SHENZHEN if name.startswith("CHN") else MONTGOMERY)
        picture(images, f"{name}.png")
        readings = images.with_name("ClinicalReadings")
        readings.mkdir(exist_ok=True)
        (readings / f"{name}.txt").write_text(text)
    return tmp_path


def read(root):
    return read_source(load_task("tb"), root, root / "work")


def test_label_site_and_patient_are_in_the_name(root):
    frame = to_manifest(load_task("tb"), read(root)).manifest.frame.set_index("study_id")
    assert frame["finding.tuberculosis"].to_dict() == {
        "CHNCXR_0001_0": 0,
        "CHNCXR_0327_1": 1,
        "CHNCXR_0024_0": 0,
        "MCUCXR_0001_0": 0,
        "MCUCXR_0104_1": 1,
    }
    first = frame.loc["CHNCXR_0327_1"]
    assert (first["patient_id"], first["site"]) == ("CHNCXR_0327", "Shenzhen")
    assert frame["view"].isna().sum() == 3
    assert frame.loc["MCUCXR_0104_1", ["site", "view"]].tolist() == ["Montgomery", "PA"]


def test_age_and_sex_are_in_the_clinical_reading(root):
    labelled = to_manifest(load_task("tb"), read(root))
    frame = labelled.manifest.frame.set_index("study_id")
    ages = frame["clinical.age"].to_dict()
    assert ages.pop("CHNCXR_0024_0") == pytest.approx(16 / 12)
    assert ages == {
        "CHNCXR_0001_0": 45,
        "CHNCXR_0327_1": 28,
        "MCUCXR_0001_0": 27,
        "MCUCXR_0104_1": 6,
    }
    assert frame["clinical.sex"].to_dict() == {
        "CHNCXR_0001_0": "M",
        "CHNCXR_0327_1": "F",
        "CHNCXR_0024_0": "F",
        "MCUCXR_0001_0": "F",
        "MCUCXR_0104_1": None,
    }
    assert not labelled.notices


def test_masks_and_other_files_are_no_images(root):
    top = root / "nlm-tb"
    picture(top / "Montgomery/MontgomerySet/ManualMask/leftMask", "MCUCXR_0001_0.png")
    picture(top / "mask", "CHNCXR_0001_0_mask.png")
    (top / SHENZHEN / "Thumbs.db").write_bytes(b"")
    raw = read(root)
    assert len(raw.frame) == 5
    assert raw.passed_over == {"masks": 2, ".db": 1}


def test_an_image_without_reading_is_used_and_said(root):
    picture(root / "nlm-tb" / SHENZHEN, "CHNCXR_0002_0.png")
    raw = read(root)
    assert raw.frame.loc[raw.frame["age"].isna(), "study_id"].tolist() == ["CHNCXR_0002_0"]
    (notice,) = raw.notices
    assert notice.startswith("1 image without a clinical reading")
    assert notice.endswith("CHNCXR_0002_0")


def test_a_copy_is_dropped(root):
    picture(root / "nlm-tb" / "ChinaSet_AllFiles/copy", "CHNCXR_0001_0.png")
    raw = read(root)
    assert len(raw.frame) == 5
    assert [d.reason for d in raw.dropped] == ["an image of this name is there already"]


def test_images_of_other_names_are_refused(tmp_path):
    picture(tmp_path / "nlm-tb", "1.png")
    with pytest.raises(DataNotFoundError, match="no "):
        read(tmp_path)
