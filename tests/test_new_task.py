"""A task from the user's own table: every column guessed, said and read again by its own name."""

import re
import shutil

import pandas as pd
import pydicom
import pytest
import yaml
from pydicom.data import get_testdata_file
from typer.testing import CliRunner

from cxr_mm import cli
from cxr_mm.core.config import Params, for_task
from cxr_mm.core.errors import ManifestError, TaskError
from cxr_mm.core.task import load_task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources import read_source
from cxr_mm.data.studies import iter_studies

NOTE = "Fieber und Husten seit drei Tagen, Auskultation mit Rasselgeräuschen links basal"


@pytest.fixture
def laboratory(tmp_path, monkeypatch):
    """A German table: semicolons, decimal commas, limits of detection, notes, in a project."""
    monkeypatch.chdir(tmp_path)
    rows = {
        "study_id": [f"s{i}" for i in range(40)],
        "patient_id": [f"p{i // 2}" for i in range(40)],
        "Alter": [str(30 + i) for i in range(39)] + [">89"],
        "CRP (mg/l)": ["<5", *(f"{1.5 * i:.1f}".replace(".", ",") for i in range(39))],
        "Geschlecht": ["w", "m"] * 20,
        "Raucher": ["0", "1", "0", "0"] * 10,
        "Befund": [f"{NOTE}, Nummer {i}" for i in range(40)],
        "Einsender": [f"Station {i}" for i in range(40)],
        "Pneumonie": ["1", "0", "-1", "0"] * 10,
    }
    file = tmp_path / "export" / "labor.csv"
    file.parent.mkdir()
    pd.DataFrame(rows).to_csv(file, sep=";", index=False, encoding="cp1252")
    return file


def run(*words):
    return CliRunner().invoke(cli.app, ["new-task", *map(str, words)])


def test_every_column_is_taken_for_what_it_is(laboratory):
    result = run("lunge", "--csv", laboratory, "--finding", "Pneumonie")
    assert result.exit_code == 0, result.exception
    task = load_task("lunge")
    (finding,) = task.findings
    assert (finding.name, finding.column) == ("pneumonie", "Pneumonie")
    assert (finding.positive, finding.negative, finding.unlabelled) == (("1",), ("0",), ("-1",))
    features = {f.name: f for f in task.clinical}
    assert list(features) == ["age", "crp_mg_l", "sex", "raucher"]
    assert (features["age"].unit, features["age"].maximum) == ("a", 120)
    crp = features["crp_mg_l"]
    assert (crp.column, crp.minimum, crp.maximum) == ("CRP (mg/l)", 0, 200)
    assert set(features["sex"].categories) == {"w", "m"}
    assert features["raucher"].categories == ("0", "1")
    assert task.note.column == "Befund"
    assert task.split.protocol == "folds"
    assert not task.has_image
    text = (laboratory.parents[1] / "tasks/lunge.yaml").read_text()
    assert "#   Einsender" in text
    assert "FILL IN, in UCUM" in text
    assert "Einsender: left out" in result.stdout
    assert "add lunge to tasks in params.yaml" in result.stdout


def test_the_task_reads_its_table_by_the_tables_own_names(laboratory, tmp_path):
    run("lunge", "--csv", laboratory, "--finding", "Pneumonie")
    task = load_task("lunge")
    labelled = to_manifest(task, read_source(task, tmp_path, tmp_path))
    clinical = labelled.manifest.clinical()
    assert len(clinical) == 30  # ten are uncertain
    assert clinical["crp_mg_l"].tolist()[:2] == [5.0, 0.0]
    assert clinical["age"].notna().all()
    (first, *others) = iter_studies(task, laboratory)
    assert first.clinical["crp_mg_l"] == 5.0
    assert first.clinical["sex"] == "w"
    assert len(others) == 39


def test_columns_of_0_and_1_are_the_findings_where_none_is_named(laboratory):
    run("lunge", "--csv", laboratory)
    task = load_task("lunge")
    assert task.problem == "multilabel"
    assert task.finding_names == ("raucher", "pneumonie")


def test_images_elsewhere_are_found_relative_to_their_folder(laboratory, tmp_path):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    folder = tmp_path / "bilder"
    (folder / "x").mkdir(parents=True)
    for name in ("a.png", "x/b.png"):
        (folder / name).write_bytes(b"")
    table = table.head(2).assign(image_path=["a.png", "x\\b.png"], Pneumonie=["1", "0"])
    table.to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory, "--images", folder, "--finding", "Pneumonie")
    assert result.exit_code == 0, result.exception
    assert "image_path: 2 of 2 files found" in result.stdout
    task = load_task("lunge")
    assert task.has_image
    found = read_source(task, tmp_path, tmp_path)
    assert found.frame["image_path"].tolist() == [str(folder / "a.png"), str(folder / "x/b.png")]
    assert found.dropped == []


def test_images_that_are_not_there_are_said_before_anything_is_written(laboratory, tmp_path):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table.assign(image_path="a.png").to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory)
    assert re.search(r"image_path: none of 40 files is in .*--images", str(result.exception))
    assert not (tmp_path / "tasks").exists()


@pytest.mark.parametrize("name", ["1.dcm", "1.DCM", "1.dicom", "IM0001"])
def test_dicom_files_with_a_table_that_names_none_are_a_dicom_folder(laboratory, tmp_path, name):
    folder = tmp_path / "pacs"
    words = ("lunge", "--csv", laboratory, "--images", folder, "--finding", "Pneumonie")
    folder.mkdir()
    (folder / "README").write_text("no image")
    assert "the column is missing" in str(run(*words).exception)
    shutil.copy(get_testdata_file("CT_small.dcm"), folder / name)
    assert run(*words).exit_code == 0
    source = load_task("lunge").source
    assert source.kind == "dicom_folder"
    assert source.options == {"csv": str(laboratory)}


@pytest.mark.parametrize(
    ("change", "words", "message"),
    [
        ({"study_id": "Zeile"}, [], r"study_id.*missing.*Zeile.*with --study-column"),
        ({"patient_id": "Wer"}, [], r"patient_id.*missing.*with --patient-column"),
        (
            {"study_id": "Zeile", "patient_id": "Wer"},
            [],
            r"study_id, patient_id: these columns.*--study-column and --patient-column",
        ),
        ({}, ["--patient-column", "Wer"], r"Wer: no such column"),
        ({}, ["--finding", "Pneumothorax"], r"Pneumothorax: no such column.*Pneumonie"),
        ({}, ["--finding", "Geschlecht"], r"Geschlecht: '[mw]' means neither present nor absent"),
    ],
)
def test_a_table_that_does_not_do_says_what_to_change(laboratory, change, words, message):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table.rename(columns=change).to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory, *words)
    assert isinstance(result.exception, ManifestError)
    assert re.search(message, str(result.exception))


def test_without_a_column_to_predict_the_option_is_named(laboratory):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table.drop(columns=["Pneumonie", "Raucher"]).to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory)
    assert "Name a column with --finding" in str(result.exception)


def test_a_task_is_not_overwritten(laboratory):
    run("lunge", "--csv", laboratory)
    result = run("lunge", "--csv", laboratory)
    assert "exists already" in str(result.exception)


def test_own_tasks_are_listed_with_their_faults(laboratory):
    run("lunge", "--csv", laboratory)
    (laboratory.parents[1] / "tasks/broken.yaml").write_text("name: broken\n")
    lines = CliRunner().invoke(cli.app, ["tasks"]).stdout.splitlines()
    assert lines[0].startswith("broken       invalid")
    assert re.match(r"lunge +ready .*\(yours\)", lines[1])
    assert any(line.startswith("icu ") for line in lines)


def test_all_faults_of_a_file_are_listed_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text(
        "name: Bad\ntitle: x\nproblem: binari\nfindings: [{name: a}]\n"
        "source: {kind: manifest_csv}\nsplit: {protocol: patient, fold: 3}\n"
    )
    with pytest.raises(TaskError) as caught:
        load_task(path)
    assert caught.value.field == f"{path}: name"
    for field in ("name", "problem", "findings.0.title", "split.fold", "licence", "citation"):
        assert f"{field}: " in str(caught.value)
    assert "docs/reference/task_file.md" in caught.value.remedy


def given_images(folder, names):
    folder.mkdir(exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("study", "patient", "file"),
    [
        ("Untersuchungsnr", "PatientenID", "Bilddatei"),
        ("Fallnummer", "Pat-Nr.", "Datei"),
        ("AccessionNumber", "PatientID", "Path"),
        ("exam_id", "subject_id", "file"),
        ("Study", "MRN", "DicomPath"),
    ],
)
def test_ids_and_files_are_found_under_other_names_and_written(
    laboratory, tmp_path, study, patient, file
):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table[file] = [f"{i}.png" for i in range(40)]
    given_images(laboratory.parent, table[file])
    table = table.rename(columns={"study_id": study, "patient_id": patient})
    table.to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory, "--finding", "Pneumonie")
    assert result.exit_code == 0, result.exception
    for line in (f"{study}: study_id", f"{patient}: patient_id", f"{file}: image_path"):
        assert line in result.stdout
    task = load_task("lunge")
    assert task.source.options == {
        "file": "labor.csv",
        "study_column": study,
        "patient_column": patient,
        "image_column": file,
    }
    assert not {"study", "patient"} & {f.name.split("_")[0] for f in task.clinical}
    raw = read_source(task, tmp_path, tmp_path).frame
    assert raw.loc[3, ["study_id", "patient_id"]].tolist() == ["s3", "p1"]
    assert raw.loc[3, "image_path"] == str(laboratory.parent / "3.png")


def test_a_table_without_an_id_of_studies_has_its_image_files(laboratory):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table["Path"] = [f"{i}.png" for i in range(40)]
    given_images(laboratory.parent, table["Path"])
    table.drop(columns="study_id").to_csv(laboratory, index=False)
    assert run("lunge", "--csv", laboratory, "--finding", "Pneumonie").exit_code == 0
    options = load_task("lunge").source.options
    assert (options["study_column"], options["image_column"]) == ("Path", "Path")


def test_two_columns_of_image_files_are_refused_rather_than_guessed(laboratory):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table["Bild"], table["Maske"] = "a.png", "m.png"
    table.to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory)
    assert "Bild, Maske: several columns have names of image files" in str(result.exception)


def test_ids_that_are_not_found_may_be_named(laboratory):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table.rename(columns={"study_id": "Zeile", "patient_id": "Wer"}).to_csv(laboratory, index=False)
    words = ("--study-column", "Zeile", "--patient-column", "Wer", "--finding", "Pneumonie")
    assert run("lunge", "--csv", laboratory, *words).exit_code == 0
    options = load_task("lunge").source.options
    assert (options["study_column"], options["patient_column"]) == ("Zeile", "Wer")


@pytest.mark.parametrize(
    ("cells", "views"),
    [
        (["AP", "PA"], ()),
        (["PA", "LL"], ("PA",)),
        (["ap", "Lateral"], ("AP",)),
        (["L", "PA"], ("PA",)),
    ],
)
def test_view_positions_are_the_view_and_no_clinical_feature(laboratory, tmp_path, cells, views):
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str)
    table["AP/PA"], table["Frontal/Lateral"] = cells * 20, ["Frontal", "Lateral"] * 20
    table.to_csv(laboratory, index=False)
    result = run("lunge", "--csv", laboratory, "--finding", "Pneumonie")
    assert "AP/PA: view" in result.stdout
    task = load_task("lunge")
    assert task.source.options["view_column"] == "AP/PA"
    assert task.views == views
    assert not {"ap_pa", "frontal_lateral"} & set(task.clinical_names)
    found = to_manifest(task, read_source(task, tmp_path, tmp_path)).manifest.frame["view"]
    assert set(found) <= {"AP", "PA"}


@pytest.mark.parametrize("named", [False, True])
def test_what_dicom_headers_have_is_offered_where_the_table_lacks_it(laboratory, tmp_path, named):
    folder = tmp_path / "pacs"
    folder.mkdir()
    dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
    dataset.PatientAge, dataset.PatientSex, dataset.ViewPosition = "058Y", "F", "AP"
    dataset.Modality = "DX"
    dataset.save_as(folder / "a.dcm")
    table = pd.read_csv(laboratory, sep=";", encoding="cp1252", dtype=str).head(20)
    table = table.drop(columns="Geschlecht")
    if named:
        table["Datei"] = "a.dcm"
    table.to_csv(laboratory, index=False)
    words = ("--csv", laboratory, "--images", folder, "--finding", "Pneumonie")
    result = run("lunge", *words)
    assert result.exit_code == 0, result.exception
    assert "sex: of the DICOM headers, " in result.stdout
    task = load_task("lunge")
    assert task.source.kind == ("manifest_csv" if named else "dicom_folder")
    assert [f.name for f in task.clinical] == ["age", "crp_mg_l", "raucher", "sex"]
    text = (tmp_path / "tasks/lunge.yaml").read_text()
    assert "--use-header" in text
    assert "#  - {name: view," in text
    if named:
        clinical = to_manifest(task, read_source(task, tmp_path, tmp_path)).manifest.clinical()
        assert set(clinical["sex"]) == {"F"}


def test_the_language_of_the_note_encoder_is_said_with_the_alternative(laboratory, tmp_path):
    run("lunge", "--csv", laboratory, "--finding", "Pneumonie")
    text = (tmp_path / "tasks/lunge.yaml").read_text()
    assert "trained on English" in text
    lines = text[text.index("# params:") :].splitlines()[:3]
    params = yaml.safe_load("\n".join(line.removeprefix("# ") for line in lines))["params"]
    assert params["embed"]["note_encoder"].endswith("multilingual-MiniLM-L12-v2")
    for_task(Params(tasks=("lunge",)), load_task("lunge").model_copy(update={"params": params}))
