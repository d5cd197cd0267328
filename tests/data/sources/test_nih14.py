import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.task import load_task
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
