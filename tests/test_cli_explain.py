"""`cxr-mm explain`: one study from the command line, clear errors where something is missing."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_mm.cli import app
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.models.input_gate import NO_GATE
from tests.doors.numbers import write_dicom

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["explain", *map(str, arguments)])


def noise(folder):
    path = folder / "image.png"
    grey = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(grey).save(path)
    return path


@pytest.fixture
def dicom(tmp_path):
    path = tmp_path / "image.dcm"
    write_dicom(noise(tmp_path), path, "PA")
    return path


def test_one_study_is_explained_into_a_folder(bundle_folder, tmp_path):
    out = tmp_path / "said"
    given = (
        "--image",
        noise(tmp_path),
        "--clinical",
        "age=63",
        "--note",
        "Fever.",
        "--accept-any-image",
    )
    requested = ("--finding", "effusion", "--method", "layer_cam", "--method", "lime_tabular")
    result = run("--bundle", bundle_folder, *given, *requested, "--out", out)
    assert result.exit_code == 0, result.exception
    assert result.output.strip() == str(out / "index.html")
    (only,) = read_json(out / "explanation.json")["explanations"]
    assert [a["method"] for a in only["attributions"]] == ["layer_cam", "lime_tabular"]
    assert (out / "effusion.layer_cam.png").is_file()


def test_age_and_sex_of_a_header_are_named_or_used(bundle_folder, dicom, tmp_path):
    dataset = pydicom.dcmread(dicom)
    dataset.PatientAge, dataset.PatientSex = "058Y", "F"
    dataset.save_as(dicom)
    given = ("--bundle", bundle_folder, "--image", dicom, "--accept-any-image")
    given += ("--finding", "effusion", "--method", "layer_cam", "--out", tmp_path / "said")
    named, used = (
        read_json(Path(run(*given, *more).output.strip()).with_name("explanation.json"))
        for more in ((), ("--use-header",))
    )
    assert named["prediction"]["modalities"] == ["image"]
    assert any("age 58, sex female" in text for text in named["prediction"]["warnings"])
    assert used["prediction"]["modalities"] == ["image", "tabular"]
    assert not any("left out" in text for text in used["prediction"]["warnings"])


def test_a_missing_input_gate_is_a_warning_of_the_page_and_the_json(
    bundle_folder, tmp_path, monkeypatch
):
    predictor = load_predictor(bundle_folder)
    ungated = Predictor(replace(predictor.bundle, gate=None))
    monkeypatch.setattr("cxr_mm.inference.predictor.load_predictor", lambda *_: ungated)
    given = ("--bundle", bundle_folder, "--method", "layer_cam", "--out", tmp_path / "said")
    result = run(*given, "--image", noise(tmp_path))
    assert result.exit_code == 0, result.exception
    assert NO_GATE in read_json(tmp_path / "said/explanation.json")["prediction"]["warnings"]
    assert NO_GATE in (tmp_path / "said/index.html").read_text()


@pytest.mark.parametrize("arguments", [(), ("synthetic", "--bundle", "models/synthetic/bundle")])
def test_a_task_or_a_bundle_is_asked_for_and_not_both(arguments):
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert "TASK or --bundle" in str(result.exception)


def test_nothing_to_explain_says_what_could_be_given(bundle_folder, tmp_path):
    result = run("--bundle", bundle_folder, "--out", tmp_path / "said")
    assert "image, tabular, note" in str(result.exception)
    assert not (tmp_path / "said").exists()
