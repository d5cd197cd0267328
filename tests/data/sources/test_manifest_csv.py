import re
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.errors import DataNotFoundError, ManifestError, TaskError
from cxr_mm.core.task import Task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import read_source
from cxr_mm.data.sources.manifest_csv import iter_manifest_csv, read_manifest_csv
from cxr_mm.data.studies import iter_studies

TASK = Task.model_validate(
    {
        "name": "own",
        "title": "Own",
        "problem": "multilabel",
        "findings": [{"name": "edema", "title": "Edema"}, {"name": "mass", "title": "Mass"}],
        "clinical": [
            {"name": "age", "title": "Age", "type": "number", "minimum": 0, "maximum": 120}
        ],
        "note": {"column": "note"},
        "source": {"kind": "manifest_csv", "folder": "own"},
        "split": {"protocol": "patient"},
        "licence": "none",
        "citation": "none",
    }
)
HEADER = "study_id,patient_id,image_path,note,age,edema,mass"
ROWS = (
    '007,p1,images/a.png,"fever, cough",63,1,0',
    "008,p1,,dyspnoea,,0,",
    "009,p2,images/gone.png,none,50,1,1",
)


@pytest.fixture
def csv(tmp_path):
    (tmp_path / "own/images").mkdir(parents=True)
    Image.new("L", (8, 8)).save(tmp_path / "own/images/a.png")
    path = tmp_path / "own/manifest.csv"
    path.write_text("\n".join([HEADER, *ROWS]) + "\n")
    return path


def test_reads_text_as_it_stands(csv, tmp_path):
    raw = read_source(TASK, tmp_path, tmp_path / "w")
    assert raw.frame["study_id"].tolist() == ["007", "008", "009"]
    assert raw.frame["note"].tolist() == ["fever, cough", "dyspnoea", "none"]
    assert Path(raw.frame["image_path"][0]) == csv.parent / "images/a.png"
    assert raw.frame["image_path"].isna().tolist() == [False, True, False]
    assert read_manifest_csv(csv, TASK, "evaluate")["image_path"][1] is None


def test_backslashes_separate_folders_unless_a_file_is_called_so(csv, tmp_path):
    odd = csv.parent / "b\\c.png"
    Image.new("L", (8, 8)).save(odd)
    csv.write_text(f"{HEADER}\n1,p,images\\a.png,,1,1,1\n2,p,b\\c.png,,1,1,1\n")
    raw = read_source(TASK, tmp_path, tmp_path / "w")
    assert raw.frame["image_path"].tolist() == [str(csv.parent / "images/a.png"), str(odd)]


@pytest.mark.parametrize(
    ("column", "near"),
    [("note", "Notes"), ("note", "clinical_note"), ("image_path", "imagepath"), ("age", "agee")],
)
def test_a_misspelt_input_is_an_error_that_names_it(csv, column, near):
    csv.write_text("\n".join([re.sub(rf"\b{column}\b", near, HEADER), *ROWS]))
    with pytest.raises(ManifestError, match=rf"{column}: the column is .*Rename '{near}'"):
        read_manifest_csv(csv, TASK, "train")


def test_an_absent_input_with_no_column_like_it_is_absent(csv):
    csv.write_text("study_id,patient_id,age,edema,mass,ward\n1,p,63,1,0,w\n")
    frame = read_manifest_csv(csv, TASK, "train")
    assert frame.loc[0, ["image_path", "note"]].isna().all()


def test_becomes_a_manifest(csv, tmp_path):
    manifest = to_manifest(TASK, read_source(TASK, tmp_path, tmp_path / "w")).manifest
    assert manifest.labels()[0].tolist() == [1.0, 0.0]
    assert manifest.frame["finding.mass"].isna().tolist() == [False, True, False]
    assert manifest.frame["clinical.age"].tolist()[0] == 63
    assert manifest.frame["group"].tolist() == ["p1", "p1", "p2"]


def test_absolute_image_path(csv, tmp_path):
    elsewhere = tmp_path / "b.png"
    Image.new("L", (8, 8)).save(elsewhere)
    csv.write_text(f"{HEADER}\n1,p,{elsewhere},,1,1,1\n")
    assert read_source(TASK, tmp_path, tmp_path).frame["image_path"].tolist() == [str(elsewhere)]


@pytest.mark.parametrize("column", ["study_id", "patient_id", "age", "mass"])
def test_missing_column_is_named(csv, column):
    header = re.sub(rf"\b{column}\b", "other", HEADER)
    csv.write_text(f"{header}\n{ROWS[0]}\n")
    with pytest.raises(ManifestError, match=rf"manifest\.csv: {column}: the column is missing"):
        read_manifest_csv(csv, TASK, "train")


def named(**options):
    source = TASK.source.model_copy(update={"options": options})
    return TASK.model_copy(update={"source": source})


@pytest.mark.parametrize(
    ("use", "missing"),
    [
        ("train", "study_id, patient_id, age, edema, mass, image_path, note"),
        ("evaluate", "study_id, edema, mass, image_path, note, age"),
        ("predict", "study_id, image_path, note, age"),
    ],
)
def test_all_missing_columns_are_named_at_once_with_those_like_them(csv, use, missing):
    csv.write_text("study,Alter\n1,2\n")
    with pytest.raises(ManifestError) as caught:
        read_manifest_csv(csv, TASK, use)
    assert caught.value.field == f"{csv}: {missing}"
    assert "there are study, Alter" in str(caught.value)
    assert "Rename 'study' to study_id if that is it, or add the columns" in str(caught.value)


COLUMNS = {
    "study_column": "Untersuchung",
    "patient_column": "PatNr",
    "image_column": "Bild",
    "view_column": "Projektion",
}
GERMAN = "Untersuchung,PatNr,Bild,Projektion,note,age,edema,mass"


def test_columns_under_other_names_are_named_by_the_task_at_every_use(csv, tmp_path):
    Image.linear_gradient("L").save(csv.parent / "images/a.png")
    csv.write_text(f"{GERMAN}\n7,p1,images\\a.png,AP,fever,63,1,0\n8,p1,,PA,cough,,0,1\n")
    task = named(**COLUMNS)
    manifest = to_manifest(task, read_source(task, tmp_path, tmp_path)).manifest.frame
    assert manifest["study_id"].tolist() == ["7", "8"]
    assert manifest["patient_id"].tolist() == ["p1", "p1"]
    assert manifest["view"].tolist() == ["AP", "PA"]
    assert manifest["image_path"][0] == str(csv.parent / "images/a.png")
    studies = list(iter_studies(task, csv))
    assert [(s.study_id, s.patient_id, s.view) for s in studies] == [
        ("7", "p1", "AP"),
        ("8", "p1", "PA"),
    ]
    assert studies[0].image is not None


def test_a_column_that_the_task_names_is_the_one_that_is_missing(csv):
    task = named(study_column="study_id", patient_column="PatNr")
    csv.write_text(f"{HEADER.replace('patient_id', 'Pat')}\n{ROWS[0]}\n")
    with pytest.raises(ManifestError, match=r"PatNr: the column is missing"):
        read_manifest_csv(csv, task, "train")


def test_a_table_of_the_usual_names_is_read_whatever_the_task_calls_them(csv):
    frame = read_manifest_csv(csv, named(**COLUMNS), "train")
    assert frame["study_id"].tolist() == ["007", "008", "009"]


def test_a_table_is_scored_with_the_images_that_it_was_trained_on(csv, tmp_path):
    elsewhere = tmp_path / "images"
    elsewhere.mkdir()
    Image.linear_gradient("L").save(elsewhere / "e.png")
    csv.write_text(f"{HEADER}\n1,p,e.png,,1,1,1\n2,p,images/a.png,,1,1,1\n3,p,no.png,,1,1,1\n")
    pieces = list(iter_manifest_csv(csv, named(images=str(elsewhere))))
    assert pieces[0]["image_path"].tolist() == [
        str(elsewhere / "e.png"),
        str(csv.parent / "images/a.png"),
        str(csv.parent / "no.png"),
    ]


def test_an_unknown_option_lists_those_that_there_are(csv, tmp_path):
    with pytest.raises(TaskError, match=r"Options of manifest_csv: study_column, patient_column"):
        read_source(named(study_colum="x"), tmp_path, tmp_path)


def test_scoring_needs_neither_labels_nor_patient_nor_image_nor_note(csv):
    csv.write_text("study_id,age\n1,63\n")
    frame = read_manifest_csv(csv, TASK, "predict")
    assert frame.loc[0, ["patient_id", "image_path", "note"]].isna().all()


def test_labels_may_be_called_like_the_finding_or_like_the_source_has_them(csv):
    finding = TASK.findings[0].model_copy(update={"column": "raw", "positive": ("Y",)})
    task = TASK.model_copy(update={"findings": (finding,)})
    for column, cell in (("raw", "Y"), ("edema", "1.0")):
        csv.write_text(f"study_id,patient_id,age,{column}\n1,p,63,{cell}\n")
        raw = read_source(task, csv.parents[1], csv.parent)
        assert to_manifest(task, raw).manifest.labels().tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "the file is empty"),
        (HEADER, "no row below the header"),
        (f"{HEADER}\n1,p,,,,1,1\n1,p,,,,0,0\n", "'1' occurs twice"),
        (f"{HEADER}\n1,p,,,,1,1\n,p,,,,0,0\n", "row 2 has none"),
        (f"{HEADER}\n1,p,,fever, cough,,1,1\n", "line 2 has 8 cells, the header 7"),
        (f'{HEADER}\n1,p,,"open,,1,1\n', "not a CSV"),
        ("\x89PNG\r\n\x1a\n", "not a CSV"),
    ],
)
def test_bad_file_is_one_clear_line(csv, content, message):
    csv.write_bytes(content.encode("latin-1"))
    for read in (
        lambda: read_manifest_csv(csv, TASK, "train"),
        lambda: next(iter_manifest_csv(csv, TASK, rows=1)),
    ):
        with pytest.raises(ManifestError, match=message) as error:
            read()
        assert "\n" not in str(error.value)
        assert str(csv) in str(error.value)


def test_missing_file(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        read_manifest_csv(tmp_path / "none.csv", TASK, "train")
    (tmp_path / "own").mkdir()
    with pytest.raises(DataNotFoundError, match=r"no file .*manifest\.csv"):
        read_source(TASK, tmp_path, tmp_path / "w")


def test_byte_order_mark_and_spaces_are_forgiven(csv):
    csv.write_text("\ufeffstudy_id , patient_id,age,edema,mass\n 1 ,p, 63,1,0\n", "utf-8")
    frame = read_manifest_csv(csv, TASK, "train")
    assert frame.loc[0, ["study_id", "age"]].tolist() == ["1", "63"]


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_in_pieces_it_is_the_same_table(csv, rows):
    pieces = list(iter_manifest_csv(csv, TASK, rows))
    assert [len(piece) for piece in pieces] == [rows] * (3 // rows) + [3 % rows] * (3 % rows > 0)
    whole = read_manifest_csv(csv, TASK, "predict")
    joined = pd.concat(pieces)
    pd.testing.assert_frame_equal(joined.fillna(""), whole.fillna(""), check_dtype=False)


def test_in_pieces_a_fault_far_down_is_told_before_the_first_row(csv):
    csv.write_text("\n".join([HEADER, *ROWS, ROWS[0]]) + "\n")
    with pytest.raises(ManifestError, match="'007' occurs twice"):
        next(iter_manifest_csv(csv, TASK, rows=1))
