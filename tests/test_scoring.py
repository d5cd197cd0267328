"""Scoring: good rows are predicted as each alone would be, bad rows are listed with the reason."""

import logging
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pydicom
import pytest
from PIL import Image

from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError, ManifestError, StorageError
from cxr_mm.core.files import read_json
from cxr_mm.core.task import load_task
from cxr_mm.data import studies as reading
from cxr_mm.data.clinical import expected_value
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.studies import BadRow, build_study, iter_studies
from cxr_mm.evaluation.external.validate import evaluate_on
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference import score as scoring
from cxr_mm.inference import table as tables
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.inference.score import score
from cxr_mm.models.input_gate import NO_GATE
from tests.doors.numbers import write_dicom

CLINICAL = load_task("synthetic").clinical_names


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    return load_predictor(bundle_folder)


@pytest.fixture(scope="module")
def rows(pipeline):
    """Five studies of the task as a user's table would hold them; one has only a note."""
    manifest = load_manifest(pipeline.paths, pipeline.task)
    frame = manifest.frame[manifest.mask().all(axis=1)].head(5)
    table = frame[["study_id", "patient_id", "image_path", "note"]].astype(object)
    table = table.join(manifest.clinical()).reset_index(drop=True)
    table.loc[4, ["image_path", *manifest.task.clinical_names]] = None
    return table


@pytest.fixture
def csv(tmp_path, rows):
    """Writes the table with changes by (row, column), and gives its path."""

    def write(changes=None, only=slice(None)):
        table = rows.astype(object)
        for (row, column), value in (changes or {}).items():
            table.loc[row, column] = value
        path = tmp_path / "studies.csv"
        table.iloc[only].to_csv(path, index=False)
        return path

    return write


def test_every_good_row_is_predicted_as_it_would_be_alone(
    predictor, csv, rows, tmp_path, monkeypatch
):
    monkeypatch.setattr(tables, "BATCH", 2)
    monkeypatch.setattr(scoring, "ROW_GROUP", 3)
    out = tmp_path / "scored.parquet"
    done = score(predictor, csv(), out)
    assert done.predicted == 5
    assert done.bad == []
    assert read_json(tmp_path / "scored.bad.json") == []
    table = pd.read_parquet(out).set_index("study_id")
    assert list(table.index) == list(rows["study_id"])
    assert list(table["patient_id"]) == list(rows["patient_id"])
    assert list(table["modalities"]) == ["image+tabular+note"] * 4 + ["note"]
    assert set(table["digest"]) == {predictor.bundle.digest}
    assert set(table["coverage"]) == {0.9}
    for study in iter_studies(predictor.bundle.task, csv()):
        alone = predictor.predict(study)
        for found in alone.findings:
            row = table.loc[study.study_id]
            wanted = pytest.approx(found.probability, abs=1e-4)
            assert row[f"probability.{found.finding}"] == wanted
            assert row[f"threshold.{found.finding}"] == found.threshold
            assert row[f"positive.{found.finding}"] == found.positive
            assert row[f"certainty.{found.finding}"] == found.certainty


def test_a_value_that_a_whole_group_lacks_has_its_column_all_the_same(
    predictor, csv, tmp_path, monkeypatch
):
    monkeypatch.setattr(scoring, "ROW_GROUP", 1)
    real, seen = tables.PredictionTable.row, []

    def without_some(codec, prediction):
        seen.append(prediction)
        row = real(codec, prediction)
        return row if len(seen) > 1 else row | {"coverage": None, "certainty.effusion": None}

    monkeypatch.setattr(tables.PredictionTable, "row", without_some)
    out = tmp_path / "scored.parquet"
    assert score(predictor, csv(), out).predicted == 5
    table = pd.read_parquet(out)
    assert table["coverage"].isna().tolist() == [True] + [False] * 4
    assert table["certainty.effusion"].isna().tolist() == [True] + [False] * 4


def test_bad_rows_are_listed_with_the_reason_and_the_rest_done(predictor, csv, rows, tmp_path):
    breaks = tmp_path / "broken.png"
    breaks.write_text("no picture")
    changes = {
        (0, "image_path"): "nowhere.png",
        (1, "image_path"): "nowhere_either.png",
        (2, "image_path"): str(breaks),
        (4, "note"): None,
        **{(n, column): None for n in range(3) for column in ("note", *CLINICAL)},
    }
    out = tmp_path / "scored.parquet"
    done = score(predictor, csv(changes), out)
    assert done.predicted == 1
    assert list(pd.read_parquet(out)["study_id"]) == [rows.loc[3, "study_id"]]
    listed = read_json(tmp_path / "scored.bad.json")
    assert [BadRow(**row) for row in listed] == done.bad
    assert [row["study_id"] for row in listed] == [rows.loc[n, "study_id"] for n in (0, 1, 2, 4)]
    for row, reason in zip(
        listed, ("nowhere.png", "nowhere_either", "broken.png", "neither"), strict=True
    ):
        assert reason in row["reason"]


def test_a_row_whose_image_cannot_be_read_is_answered_without_it_and_says_so(
    predictor, csv, rows, tmp_path
):
    out = tmp_path / "scored.parquet"
    done = score(predictor, csv({(1, "image_path"): "nowhere.png"}), out)
    assert (done.predicted, done.bad) == (5, [])
    table = pd.read_parquet(out).set_index("study_id")
    found = table.loc[rows.loc[1, "study_id"]]
    assert found["modalities"] == "tabular+note"
    assert "image: left out: no such file" in found["warnings"]
    alone = score(predictor, csv({(1, "image_path"): None}), tmp_path / "alone.parquet")
    assert alone.predicted == 5
    without = pd.read_parquet(tmp_path / "alone.parquet").set_index("study_id")
    columns = [name for name in table if name.startswith("probability.")]
    pd.testing.assert_frame_equal(table[columns], without[columns])


def test_a_picture_that_is_no_image_is_a_bad_row(predictor, csv, rows, tmp_path):
    picture = tmp_path / "noise.png"
    grey = np.random.default_rng(0).integers(0, 255, (90, 80)).astype(np.uint8)
    Image.fromarray(grey).save(picture)
    done = score(predictor, csv({(1, "image_path"): str(picture)}), tmp_path / "scored.parquet")
    assert done.predicted == 4
    ((bad),) = done.bad
    assert bad.study_id == rows.loc[1, "study_id"]
    assert "does not look like an upright frontal chest radiograph" in bad.reason


def test_a_note_that_is_too_long_is_a_bad_row_like_any_other(predictor, csv, rows, tmp_path):
    done = score(predictor, csv({(1, "note"): "x" * 30_000}), tmp_path / "scored.parquet")
    assert done.predicted == 4
    assert [row.study_id for row in done.bad] == [rows.loc[1, "study_id"]]


def test_where_every_row_is_bad_nothing_is_written(predictor, csv, tmp_path):
    nothing = {(n, column): None for n in range(2) for column in ("note", *CLINICAL)}
    path = csv({(0, "image_path"): "a.png", (1, "image_path"): "b.png", **nothing}, only=slice(2))
    with pytest.raises(InputError, match=r"no row can be predicted \(2 bad, the first: .*a.png"):
        score(predictor, path, tmp_path / "scored.parquet")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("count", "without", "said"),
    [
        (0, [], "no row below the header"),
        (5, ["study_id"], "study_id: the column is missing"),
        (
            5,
            ["image_path", "note", *CLINICAL],
            "image_path, note, age, .*: these columns are missing",
        ),
    ],
)
def test_what_is_no_table_is_refused_and_nothing_is_written(
    predictor, csv, tmp_path, count, without, said
):
    path = csv(only=slice(count))
    pd.read_csv(path).drop(columns=without).to_csv(path, index=False)
    with pytest.raises(ManifestError, match=said):
        score(predictor, path, tmp_path / "scored.parquet")
    assert list(tmp_path.iterdir()) == [path]


def test_a_table_of_images_alone_is_scored_and_what_it_lacks_is_said_once(
    predictor, csv, tmp_path, caplog
):
    caplog.set_level(logging.INFO)
    path = csv(only=slice(2))
    table = pd.read_csv(path)[["study_id", "image_path", "note"]]
    table.rename(columns={"note": "notes"}).to_csv(path, index=False)
    assert score(predictor, path, tmp_path / "scored.parquet").predicted == 2
    assert set(pd.read_parquet(tmp_path / "scored.parquet")["modalities"]) == {"image"}
    (said,) = [text for text in caplog.messages if "no column" in text]
    assert f"no column note, {', '.join(CLINICAL)}, so no study has it" in said
    assert "('notes' is another name than 'note')" in said


def test_a_csv_holds_what_the_parquet_file_holds(predictor, csv, tmp_path):
    for suffix in ("csv", "parquet"):
        score(predictor, csv(only=slice(2)), tmp_path / f"out.{suffix}")
        score(predictor, csv(only=slice(2)), tmp_path / f"out.{suffix}")  # replaces its own
    table = pd.read_parquet(tmp_path / "out.parquet")
    other = pd.read_csv(tmp_path / "out.csv", dtype={"patient_id": str}, keep_default_na=False)
    assert list(other.columns) == list(table.columns)
    assert list(other["study_id"]) == list(table["study_id"])
    assert list(other["probability.effusion"]) == pytest.approx(table["probability.effusion"])


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("studies.csv", InputError, "is the input itself"),
        ("folder.parquet", InputError, "exists and is no earlier output"),
        ("other.csv", InputError, "exists and is no earlier output"),
        ("out.xlsx", InputError, "'.xlsx' is no format of a table. Name a file that ends in .csv"),
        ("out", InputError, "it has no suffix"),
        ("other.csv/out.parquet", StorageError, "cannot be written"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_study_is_read(
    predictor, csv, tmp_path, monkeypatch, name, error, said
):
    path = csv()
    (tmp_path / "folder.parquet").mkdir()
    (tmp_path / "other.csv").write_text("mine")
    before = {p: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()}
    monkeypatch.setattr(scoring, "iter_studies", None)
    with pytest.raises(error, match=said):
        score(predictor, path, tmp_path / name)
    assert {p: p.is_file() and p.read_bytes() for p in tmp_path.iterdir()} == before


def test_the_tally_counts_by_reason_with_examples(predictor, csv, rows, tmp_path):
    changes = {(n, "image_path"): f"nowhere{n}.png" for n in range(2)}
    changes |= {(4, "note"): None, (2, "age"): "999", (2, "crp"): "-inf", (3, "age"): ">999"}
    lines = score(predictor, csv(changes), tmp_path / "scored.parquet").lines()
    ids = list(rows["study_id"])
    features = {f.name: f for f in predictor.bundle.task.clinical}
    age, crp = (expected_value(features[name]) for name in ("age", "crp"))
    assert lines == [
        "5 studies read, 4 answered, 1 not",
        f"not answered: 1 there is neither image, clinical value nor note (as {ids[4]})",
        f"answered without the image: 2 no such file (as {ids[0]}, {ids[1]})",
        f"taken as unknown: 2 age out of range (as {ids[2]}, {ids[3]}; expected {age})",
        f"taken as unknown: 1 crp no number (as {ids[2]}; expected {crp})",
    ]
    table = pd.read_parquet(tmp_path / "scored.parquet").set_index("study_id")
    assert "age: 999 is out of range, so it counts as unknown" in table.loc[ids[2], "warnings"]


@pytest.fixture
def dicoms(tmp_path, rows):
    """A folder of two DICOM files that state age and sex, and one that is none."""
    folder = tmp_path / "dicoms"
    folder.mkdir()
    for number in range(2):
        path = folder / f"{number}.dcm"
        write_dicom(rows.loc[number, "image_path"], path, "PA")
        dataset = pydicom.dcmread(path)
        dataset.SOPInstanceUID, dataset.PatientID = f"1.2.{number}", "P7"
        dataset.PatientAge, dataset.PatientSex = "058Y", "F"
        dataset.save_as(path)
    (folder / "broken.dcm").write_text("no image")
    return folder


def test_a_folder_of_dicom_files_is_scored_and_the_header_is_named_or_used(
    predictor, dicoms, tmp_path
):
    any_image = Predictor(predictor.bundle, accept_any_image=True)
    out = tmp_path / "scored.parquet"
    lines = score(any_image, dicoms, out, "name").lines()
    assert lines[0] == "3 studies read, 2 answered, 1 not"
    assert lines[1] == "not answered: 1 not a readable DICOM file (as broken.dcm)"
    assert lines[2] == "not used: 2 header values without --use-header (as 1.2.0, 1.2.1)"
    table = pd.read_parquet(out)
    assert list(table["patient_id"]) == ["P7", "P7"]
    assert set(table["modalities"]) == {"image"}
    assert (
        table["warnings"]
        .str.contains("left out, since --use-header was not given: age 58, sex female")
        .all()
    )
    assert len(score(any_image, dicoms, out, "use").lines()) == 2
    assert set(pd.read_parquet(out)["modalities"]) == {"image+tabular"}


def test_an_external_evaluation_names_or_uses_the_header_too(predictor, dicoms, tmp_path):
    any_image = Predictor(predictor.bundle, accept_any_image=True)
    (dicoms / "1.csv").write_text(
        "study_id,image_path,effusion,consolidation\na,0.dcm,1,\nb,1.dcm,0,\n"
    )
    params = EvaluateParams(bootstrap=100)
    seen = {}
    for header in ("name", "use"):
        out = tmp_path / header
        evaluate_on(any_image, dicoms / "1.csv", out, params, header=header)
        table = pd.read_parquet(out / "predictions.parquet")
        seen[header] = set(table.loc[table["subset"] == "available", "modalities"])
        named = "header values without --use-header" in (out / "summary.txt").read_text()
        assert named == (header == "name")
    assert seen == {"name": {"image"}, "use": {"image+tabular"}}


def test_a_missing_input_gate_is_said_once_for_all_images(predictor, csv, rows, tmp_path):
    ungated, out = Predictor(replace(predictor.bundle, gate=None)), tmp_path / "scored.csv"
    assert score(predictor, csv(), out).lines() == ["5 studies read, 5 answered, 0 not"]
    assert score(ungated, csv(), out).lines()[1:] == [f"{NO_GATE} (4 images)"]
    assert "input gate" not in out.read_text()
    without = {(row, "image_path"): None for row in range(4)}
    assert len(score(ungated, csv(without), out).lines()) == 1


def test_a_given_value_comes_before_the_header(predictor, dicoms):
    task, path = predictor.bundle.task, dicoms / "0.dcm"
    read = partial(read_radiograph, path)
    used = build_study(task, read, {"age": "61", "sex": ""}, header="use")
    assert (used.clinical["age"], used.clinical["sex"]) == (61.0, "female")
    refused = build_study(task, read, {"age": "610", "sex": "unknown"}, header="use")
    assert (refused.clinical["age"], refused.clinical["sex"]) == (None, None)


def test_images_are_read_only_when_it_is_their_turn(predictor, csv, monkeypatch):
    read = []
    real = reading.read_radiograph
    monkeypatch.setattr(reading, "read_radiograph", lambda path: read.append(path) or real(path))
    studies = iter_studies(predictor.bundle.task, csv())
    assert read == []
    first = next(studies)
    assert len(read) == 1
    assert first.image.dtype == np.float32
