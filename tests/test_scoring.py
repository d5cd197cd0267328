"""Scoring: good rows are predicted as each alone would be, bad rows are listed with the reason."""

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import read_json
from cxr_mm.data import studies as reading
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.inference import score as scoring
from cxr_mm.inference import table as tables
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.inference.score import score


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
    assert done.bad == ()
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
    }
    out = tmp_path / "scored.parquet"
    done = score(predictor, csv(changes), out)
    assert done.predicted == 1
    assert list(pd.read_parquet(out)["study_id"]) == [rows.loc[3, "study_id"]]
    listed = read_json(tmp_path / "scored.bad.json")
    assert [BadRow(**row) for row in listed] == list(done.bad)
    assert [row["study_id"] for row in listed] == [rows.loc[n, "study_id"] for n in (0, 1, 2, 4)]
    for row, reason in zip(
        listed, ("nowhere.png", "nowhere_either", "broken.png", "neither"), strict=True
    ):
        assert reason in row["reason"]


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
    path = csv({(0, "image_path"): "a.png", (1, "image_path"): "b.png"}, only=slice(2))
    with pytest.raises(InputError, match=r"no row can be predicted \(2 bad, the first: .*a.png"):
        score(predictor, path, tmp_path / "scored.parquet")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("count", "without", "said"),
    [(0, [], "no row below the header"), (5, ["crp"], "crp: the column is missing")],
)
def test_what_is_no_table_is_refused_and_nothing_is_written(
    predictor, csv, tmp_path, count, without, said
):
    path = csv(only=slice(count))
    pd.read_csv(path).drop(columns=without).to_csv(path, index=False)
    with pytest.raises(ManifestError, match=said):
        score(predictor, path, tmp_path / "scored.parquet")
    assert list(tmp_path.iterdir()) == [path]


def test_images_are_read_only_when_it_is_their_turn(predictor, csv, monkeypatch):
    read = []
    real = reading.read_radiograph
    monkeypatch.setattr(reading, "read_radiograph", lambda path: read.append(path) or real(path))
    studies = iter_studies(predictor.bundle.task, csv())
    assert read == []
    first = next(studies)
    assert len(read) == 1
    assert first.image.dtype == np.float32
