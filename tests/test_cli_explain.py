"""`cxr-mm explain`: one study from the command line, clear errors where something is missing."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_mm.cli import app
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json

runner = CliRunner()


def run(*arguments):
    return runner.invoke(app, ["explain", *map(str, arguments)])


def test_one_study_is_explained_into_a_folder(bundle_folder, tmp_path):
    image = tmp_path / "image.png"
    grey = np.random.default_rng(0).integers(0, 255, (120, 100), dtype=np.uint8)
    Image.fromarray(grey).save(image)
    out = tmp_path / "said"
    given = ("--image", image, "--clinical", "age=63", "--note", "Fever.", "--accept-any-image")
    requested = ("--finding", "effusion", "--method", "layer_cam", "--method", "lime_tabular")
    result = run("--bundle", bundle_folder, *given, *requested, "--out", out)
    assert result.exit_code == 0, result.exception
    assert result.output.strip() == str(out / "index.html")
    (only,) = read_json(out / "explanation.json")["explanations"]
    assert [a["method"] for a in only["attributions"]] == ["layer_cam", "lime_tabular"]
    assert (out / "effusion.layer_cam.png").is_file()


@pytest.mark.parametrize("arguments", [(), ("synthetic", "--bundle", "models/synthetic/bundle")])
def test_a_task_or_a_bundle_is_asked_for_and_not_both(arguments):
    result = run(*arguments)
    assert isinstance(result.exception, InputError)
    assert "TASK or --bundle" in str(result.exception)


def test_nothing_to_explain_says_what_could_be_given(bundle_folder, tmp_path):
    result = run("--bundle", bundle_folder, "--out", tmp_path / "said")
    assert "image, tabular, note" in str(result.exception)
    assert not (tmp_path / "said").exists()
