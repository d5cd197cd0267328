from dataclasses import replace

import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError, ManifestError, StageError
from cxr_mm.core.files import write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.manifest import with_frequent_findings
from cxr_mm.data.sources import read_source

HEADER = (
    "Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position,"
    "OriginalImage[Width,Height],OriginalImagePixelSpacing[x,y]"
)
ROWS = (
    "a.png,Effusion|Pneumonia,0,3,74,F,PA,2500,2048,0.168,0.168",
    "b.png,No Finding,1,3,058Y,M,AP,2500,2048,0.168,0.168",
    "c.png,No Finding,0,4,30,M,AP,2500,2048,0.168,0.168",
)


def write(folder, table, rows=ROWS, header=HEADER):
    folder.mkdir(parents=True)
    (folder / table).write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_cells_stay_in_their_columns_though_headings_hold_commas(tmp_path):
    folder = write(tmp_path / "nih-chest-xray14", "Data_Entry_2017_v2020.csv")
    (folder / "images").mkdir()
    for name in ("a.png", "b.png"):
        Image.new("L", (8, 8)).save(folder / "images" / name)
    raw = read_source(load_task("effusion"), tmp_path, tmp_path / "work")
    first = raw.frame.iloc[0]
    assert first["study_id"] == "a.png"
    assert first["Finding Labels"] == "Effusion|Pneumonia"
    assert (first["patient_id"], first["sex"], first["view"]) == ("3", "F", "PA")
    assert raw.frame["age"].astype(float).tolist() == [74, 58]
    assert [(d.study_id, d.reason) for d in raw.dropped] == [
        ("c.png", "the image file is not there")
    ]


def test_layout_of_the_kaggle_copy(tmp_path):
    folder = write(tmp_path / "nih-chest-xray14", "Data_Entry_2017.csv")
    for part, name in (("images_001", "a.png"), ("images_002", "b.png"), ("images_002", "c.png")):
        (folder / part / "images").mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / part / "images" / name)
    raw = read_source(load_task("effusion"), tmp_path, tmp_path / "work")
    assert len(raw.frame) == 3
    assert not raw.dropped


def test_a_name_that_several_files_have_is_dropped_and_other_files_are_counted(tmp_path):
    folder = write(tmp_path / "nih-chest-xray14", "Data_Entry_2017.csv", ROWS[:2])
    names = ("images/a.png", "images_001/a.png", "images/b.png", "images/x.png", "images/x.txt")
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(name.encode())
    raw = read_source(load_task("effusion"), tmp_path, tmp_path / "work")
    assert raw.frame["study_id"].tolist() == ["b.png"]
    assert [(d.study_id, d.reason) for d in raw.dropped] == [
        ("a.png", "several image files have this name")
    ]
    assert raw.passed_over == {"images that the table does not name": 1, ".txt": 1}


def test_another_table_is_refused(tmp_path):
    folder = write(tmp_path / "nih-chest-xray14", "Data_Entry_2017.csv", ["1,2"], "x,y")
    (folder / "images").mkdir()
    with pytest.raises(DataNotFoundError, match="not the table of the original"):
        read_source(load_task("effusion"), tmp_path, tmp_path / "work")


def test_real_counts(data_root, tmp_path):
    raw = read_source(load_task("effusion"), data_root, tmp_path)
    labels = raw.frame["Finding Labels"].str.split("|").explode()
    assert len(raw.frame) == 1095
    assert raw.frame["patient_id"].nunique() == 760
    counts = labels.value_counts()
    assert counts[["Effusion", "No Finding", "Pneumonia"]].tolist() == [98, 538, 501]


def miniature(root, read):
    """Three images of NIH, and the radiologists' table with the lines `read`."""
    folder = write(root / "nih-chest-xray14", "Data_Entry_2017.csv")
    (folder / "images").mkdir()
    for name in ("a.png", "b.png", "c.png"):
        Image.new("L", (8, 8)).save(folder / "images" / name)
    (folder / "radiologist_labels.csv").write_text("\n".join(read) + "\n")


def test_opacity_against_normal_and_against_all_others(tmp_path):
    task = load_task("nih_opacity")
    miniature(
        tmp_path,
        [
            "image,rsna_class",
            "a.png,Lung Opacity",
            "b.png,No Lung Opacity / Not Normal",
            "c.png,Normal",
        ],
    )
    labelled = to_manifest(task, read_source(task, tmp_path, tmp_path / "work"))
    frame = labelled.manifest.frame
    assert not labelled.cleared
    assert frame["finding.opacity"].fillna(-1).tolist() == [1, -1, 0]
    assert frame["finding.opacity_all"].tolist() == [1, 0, 0]


def test_an_image_that_no_radiologist_read_is_left_out(tmp_path):
    task = load_task("nih_opacity")
    miniature(tmp_path, ["image,rsna_class", "a.png,Lung Opacity", "c.png,"])
    labelled = to_manifest(task, read_source(task, tmp_path, tmp_path / "work"))
    assert labelled.manifest.frame["study_id"].tolist() == ["a.png"]
    assert [d.reason for d in labelled.dropped] == ["no label"] * 2


def test_radiologists_table_is_needed_whole(tmp_path):
    miniature(tmp_path, ["image,class", "a.png,Normal"])
    with pytest.raises(ManifestError, match="rsna_class"):
        read_source(load_task("nih_opacity"), tmp_path, tmp_path / "work")
    (tmp_path / "nih-chest-xray14" / "radiologist_labels.csv").unlink()
    with pytest.raises(DataNotFoundError, match=r"no radiologist_labels\.csv in"):
        read_source(load_task("nih_opacity"), tmp_path, tmp_path / "work")


def test_real_opacities(data_root, tmp_path):
    task = load_task("nih_opacity")
    frame = to_manifest(task, read_source(task, data_root, tmp_path)).manifest.frame
    assert len(frame) == 225
    assert frame["finding.opacity"].value_counts().to_dict() == {1: 84, 0: 58}
    assert frame["finding.opacity_all"].value_counts().to_dict() == {1: 84, 0: 141}


@pytest.mark.parametrize("least", [1, 2])
def test_findings_with_few_positives_are_left_out(tmp_path, least):
    task = load_task("nih").model_copy(update={"minimum_positives": least})
    miniature(tmp_path, ["image,rsna_class"])
    paths = TaskPaths("nih", tmp_path)
    manifest = to_manifest(task, read_source(task, tmp_path, tmp_path / "work")).manifest
    write_parquet(paths.manifest, manifest.frame)
    if least == 1:
        found = with_frequent_findings(task, paths).finding_names
        assert found == ("effusion", "pneumonia")
        return
    with pytest.raises(StageError, match="no finding has 2 positives; the most frequent has 1"):
        with_frequent_findings(task, paths)


def test_real_findings_with_forty_positives(data_root, tmp_path):
    task, paths = load_task("nih"), TaskPaths("nih", tmp_path)
    manifest = to_manifest(task, read_source(task, data_root, tmp_path)).manifest
    write_parquet(paths.manifest, manifest.frame)
    frequent = with_frequent_findings(task, paths)
    labels = replace(manifest, task=frequent).labels()
    assert dict(zip(frequent.finding_names, labels.sum(axis=0), strict=True)) == {
        "atelectasis": 124,
        "edema": 103,
        "effusion": 98,
        "infiltration": 202,
        "pneumonia": 501,
    }
