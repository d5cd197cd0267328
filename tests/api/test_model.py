"""Public API: names, images of every kind, tables; the numbers are those of the commands."""

import ast
from pathlib import Path

import numpy as np
import pandas as pd
import pydicom
import pytest
import torch
from PIL import Image

import cxr_mm
from cxr_mm.core.errors import BundleError, InputError, ManifestError, NoteError, RadiographError
from cxr_mm.data.manifest import load_manifest
from cxr_mm.inference.score import score
from cxr_mm.prediction_log.log import open_log
from tests.doors.numbers import write_dicom

STUB = Path(cxr_mm.__file__).with_suffix(".pyi")


@pytest.fixture(scope="module")
def model(bundle_folder):
    """Takes any image."""
    return cxr_mm.load(bundle_folder, accept_any_image=True)


@pytest.fixture(scope="module")
def rows(pipeline):
    """Six studies with every input."""
    manifest = load_manifest(pipeline.paths, pipeline.task)
    frame = manifest.frame[manifest.mask().all(axis=1)].head(6)
    table = frame[["study_id", "patient_id", "image_path", "note"]].astype(object)
    return table.join(manifest.clinical()).reset_index(drop=True)


@pytest.fixture(scope="module")
def png(rows):
    return Path(rows["image_path"][0])


def test_the_names_are_sorted_typed_and_there():
    (typed,) = [
        ast.literal_eval(node.value)
        for node in ast.parse(STUB.read_text()).body
        if isinstance(node, ast.Assign)
    ]
    assert sorted(cxr_mm.__all__) == cxr_mm.__all__ == typed
    assert set(cxr_mm.__all__) <= set(dir(cxr_mm))
    assert all(getattr(cxr_mm, name).__doc__ for name in cxr_mm.__all__)
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        cxr_mm.lode  # noqa: B018


def test_one_image_gives_one_answer_however_it_is_handed_in(model, png, tmp_path):
    grey = np.asarray(Image.open(png))
    write_dicom(png, dicom := tmp_path / "study.dcm", "AP")
    dataset = pydicom.dcmread(dicom)
    before = dataset.to_json()
    Image.fromarray(grey.astype(np.uint16) * 16).save(deep := tmp_path / "deep.png")
    upside = Image.fromarray(np.rot90(grey, 2))
    upside.getexif()[0x0112] = 3
    kinds = {
        "grey": [
            str(png), png, png.read_bytes(), Image.open(png), grey, grey[None], torch.tensor(grey),
            grey / np.float32(255), Image.fromarray(grey / np.float32(255)), upside,
        ],
        "colour": [Image.open(png).convert("RGB"), np.repeat(grey[..., None], 3, axis=2)],
        "deep": [deep, grey.astype(np.uint16) * 16, Image.open(deep).convert("I")],
        "dicom": [dicom, dataset, bare(dataset)],
    }  # fmt: skip
    for kind, images in kinds.items():
        first, *others = [model.predict(image=image, study_id="s") for image in images]
        for n, other in enumerate(others):
            assert other == first, (kind, n)
    assert dataset.to_json() == before


def bare(dataset):
    """The dataset as it comes by a network, without a file's header."""
    result = pydicom.Dataset()
    result.update(dataset)
    return result


@pytest.mark.parametrize(
    ("image", "kind", "fault"),
    [
        (7, InputError, "int is no type of image. Give a path"),
        (["a.png"], InputError, "list is no type of image"),
        (b"", RadiographError, "the file is empty"),
        (np.zeros((40, 40), np.int64), RadiographError, "an array of int64"),
        (np.zeros((40, 40, 2), np.uint8), RadiographError, "an array of uint8"),
        (np.full((40, 40), 255.0), RadiographError, "outside of 0 to 1"),
        (np.full((40, 40), np.nan), RadiographError, "outside of 0 to 1"),
        (np.zeros((8, 8), np.uint8), RadiographError, "too few"),
        (pydicom.Dataset(), RadiographError, "image: "),
    ],
)
def test_what_is_no_image_is_said(model, image, kind, fault):
    with pytest.raises(kind, match=fault):
        model.predict(image=image, note="fever")


def test_a_table_is_answered_as_the_command_answers_it(model, rows, tmp_path):
    rows.to_csv(csv := tmp_path / "studies.csv", index=False)
    score(model.predictor, csv, out := tmp_path / "scored.parquet")
    scored = pd.read_parquet(out).drop(columns="patient_id")
    log = f"sqlite:///{tmp_path}/predictions.db"
    own = model.predict_frame(rows, log=log, progress=False).drop(columns="error")
    pd.testing.assert_frame_equal(own, scored[own.columns])
    with open_log(log, create=False) as opened:
        logged = opened.read_window("synthetic")
        ids = [opened.hash_id(name) for name in rows["study_id"]]
    assert [record.study_hash for record in logged] == ids


def test_no_row_is_lost_and_each_bad_one_has_its_reason(model, rows, png, capsys, caplog):
    table = rows.drop(columns=["study_id", "patient_id"]).set_axis(list("abcdef"))
    table["image_path"] = [np.asarray(Image.open(png)), str(png), "gone.png", b"no", pd.NA, None]
    table.loc[["c", "e"], table.columns != "image_path"] = None
    table.loc["f", "age"] = 900
    found = model.predict_frame(table)
    assert list(found.index) == list(found["study_id"]) == list("abcdef")
    assert list(found["error"].notna()) == [False, False, True, False, True, False]
    assert "gone.png" in found["error"]["c"]
    assert found["error"]["e"] == "there is neither image, clinical value nor note."
    assert found.loc["a", "modalities"] == "image+tabular+note"
    assert found.loc["d", "warnings"].startswith("image: left out: neither a PNG")
    assert "age" in found.loc["f", "warnings"]
    assert "6/6" in capsys.readouterr().err
    (warning,) = caplog.records
    assert warning.levelname == "WARNING"
    assert "6 studies read, 4 answered, 2 not" in warning.message
    assert "answered without the image: 1" in warning.message


def test_that_no_image_could_be_used_is_said_loudest(model, rows, caplog):
    found = model.predict_frame(rows.assign(image_path="gone.png"), progress=False)
    assert found["error"].isna().all()
    assert set(found["modalities"]) <= {"tabular", "note", "tabular+note"}
    _, error = caplog.records
    assert error.levelname == "ERROR"
    assert (
        error.message == f"none of the {len(rows)} images could be used: no answer is of an image"
    )
    caplog.clear()
    model.predict_frame(rows.drop(columns="image_path"), progress=False)
    assert not caplog.records


@pytest.mark.parametrize(
    ("change", "kind", "fault"),
    [
        (lambda rows: rows.to_dict(), InputError, "data: dict is no table"),
        (lambda rows: rows.iloc[:0], ManifestError, "the DataFrame: it has no row"),
        (lambda rows: rows[["study_id"]], ManifestError, "^the DataFrame: image_path, note, .*age"),
        (
            lambda rows: rows.assign(study_id="s"),
            ManifestError,
            "^the DataFrame: study_id: 's' occ",
        ),
        (lambda rows: rows.assign(image_path=7), InputError, "the DataFrame, row 0: image: int"),
    ],
)
def test_a_table_that_is_none_is_said(model, rows, change, kind, fault):
    with pytest.raises(kind, match=fault):
        model.predict_frame(change(rows), progress=False)


def test_an_explanation_draws_itself_and_is_escaped(model, png):
    hostile = '<script>alert("x")</script>'
    explained = model.explain(image=png, note=hostile, findings=["effusion"], study_id=hostile)
    drawn = explained._repr_html_()
    assert drawn.startswith("<iframe sandbox srcdoc=")
    assert "<script" not in drawn
    assert drawn.count('"') == 6  # none that would end the frame's document early
    assert "<script" not in explained.page()
    (effusion,) = explained.explanations.values()
    assert list(explained.what_if) == ["effusion"]
    expected = model.predict(image=png, note=hostile).probabilities["effusion"]
    assert effusion.probability == pytest.approx(expected, abs=1e-6)


def test_what_a_notebook_holds_is_taken_or_refused_by_name(model, png):
    row = pd.Series({"age": 63.0, "crp": np.nan})
    given = {"age": 63}
    assert (
        model.predict(png, row, np.nan, study_id="a").probabilities
        == model.predict(png, given, study_id="a").probabilities
    )
    with pytest.raises(NoteError, match="int is no text"):
        model.predict(png, note=5)
    with pytest.raises(InputError, match="clinical: list is no mapping"):
        model.predict(png, [63])
    with pytest.raises(RadiographError, match="no pixels"):
        model.predict(np.zeros((0, 0)))


def test_a_missing_bundle_is_said(tmp_path):
    with pytest.raises(BundleError, match=r"there is no bundle.json in it"):
        cxr_mm.load(tmp_path)
