import shutil
from pathlib import Path

import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError, TaskError
from cxr_mm.core.task import load_task
from cxr_mm.data.sources import fingerprint, read_source, source_found

FILES = (
    "train/NORMAL/IM-0115-0001.jpeg",
    "train/NORMAL/IM-0115-0001-0002.jpeg",
    "train/NORMAL/NORMAL2-IM-0115-0001.jpeg",
    "train/PNEUMONIA/person1_bacteria_1.jpeg",
    "train/PNEUMONIA/person1_bacteria_2.jpeg",
    "train/PNEUMONIA/person1_virus_6.jpeg",
    "train/PNEUMONIA/unnamed.jpeg",
    "test/NORMAL/IM-0115-0001.jpeg",
    "test/PNEUMONIA/person1_virus_6.jpeg",
    "val/NORMAL/NORMAL2-IM-1427-0001.jpeg",
)


@pytest.fixture
def root(tmp_path):
    for name in FILES:
        file = tmp_path / "chest_xray" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(file)
    (tmp_path / "chest_xray/train/NORMAL/.DS_Store").write_text("")
    (tmp_path / "chest_xray/val/PNEUMONIA").mkdir()
    return tmp_path


def test_parts_labels_and_patients(root, tmp_path):
    raw = read_source(load_task("pneumonia"), root, tmp_path / "work")
    rows = raw.frame.set_index("study_id")
    assert set(rows.index) == set(FILES[:-1])
    assert rows.loc[FILES[3], "label"] == "BACTERIAL"
    assert rows.loc[FILES[5], "label"] == "VIRAL"
    assert rows.loc[FILES[6], "label"] == "PNEUMONIA"
    assert rows.loc[FILES[7], ["label", "part", "view"]].tolist() == ["NORMAL", "test", "AP"]
    groups = rows["group"]
    assert groups[FILES[0]] == groups[FILES[1]] != groups[FILES[2]]
    assert groups[FILES[3]] == groups[FILES[4]] != groups[FILES[5]]
    assert groups[FILES[0]] != groups[FILES[7]], "numbering may restart between the parts"
    assert all(Path(path).is_file() for path in rows["image_path"])


def test_val_is_counted_as_dropped(root, tmp_path):
    raw = read_source(load_task("pneumonia"), root, tmp_path / "work")
    assert [d.study_id for d in raw.dropped] == [FILES[-1]]
    assert "16 images" in raw.dropped[0].reason


def test_other_files_are_counted_and_no_part_of_the_data(root, tmp_path):
    more = ("train/NORMAL/IM-1.dcm", "val/NORMAL/notes.txt", "chest_xray/train/NORMAL/IM-1.jpeg")
    for name in more:
        (root / "chest_xray" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "chest_xray" / name).write_bytes(b"")
    raw = read_source(load_task("pneumonia"), root, tmp_path / "work")
    assert raw.passed_over == {".dcm": 1, ".txt": 1, "outside the class folders": 1}
    assert set(raw.frame["study_id"]) == set(FILES[:-1])


def test_val_may_be_absent(root, tmp_path):
    shutil.rmtree(root / "chest_xray/val")
    assert not read_source(load_task("pneumonia"), root, tmp_path / "work").dropped


def test_missing_class_folder_is_named(root, tmp_path):
    (root / "chest_xray/test/NORMAL/IM-0115-0001.jpeg").unlink()
    (root / "chest_xray/test/NORMAL").rmdir()
    task = load_task("pneumonia")
    assert "test/NORMAL" in source_found(task, root)
    with pytest.raises(DataNotFoundError, match=r"test/NORMAL.*CXR_MM_DATA.*cxr-mm fetch"):
        read_source(task, root, tmp_path / "work")


def test_options_are_refused(root, tmp_path):
    task = load_task("pneumonia")
    odd = task.model_copy(
        update={"source": task.source.model_copy(update={"options": {"part": "test"}})}
    )
    with pytest.raises(TaskError, match=r"source\.options\.part"):
        read_source(odd, root, tmp_path / "work")


def test_fingerprint_sees_a_changed_file(root):
    task = load_task("pneumonia")
    before = fingerprint(task, root)
    assert fingerprint(task, root) == before
    assert before["files"] == len(FILES)
    (root / "chest_xray" / FILES[0]).write_bytes(b"another size")
    assert fingerprint(task, root)["digest"] != before["digest"]


def test_real_counts(data_root, tmp_path):
    raw = read_source(load_task("pneumonia3"), data_root, tmp_path)
    counts = raw.frame.groupby(["part", "label"]).size().to_dict()
    assert counts == {
        ("train", "NORMAL"): 1341,
        ("train", "BACTERIAL"): 2530,
        ("train", "VIRAL"): 1345,
        ("test", "NORMAL"): 234,
        ("test", "BACTERIAL"): 242,
        ("test", "VIRAL"): 148,
    }
    assert len(raw.dropped) == 16


def test_a_file_that_vanishes_while_the_folder_is_read_is_named(root):
    gone = root / "chest_xray" / "train" / "gone.jpeg"
    gone.symlink_to("nowhere.jpeg")
    with pytest.raises(DataNotFoundError, match=r"gone\.jpeg: listed .*No such file"):
        fingerprint(load_task("pneumonia"), root)
