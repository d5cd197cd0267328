"""The guide docs/python.md, run as it stands: predict, explain, evaluate, train, export."""

import re
import shlex
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import cxr_mm
from cxr_mm import cli
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.data.studies import build_study
from cxr_mm.imaging.radiograph import Radiograph

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
MOST = 1e-4
"""Difference that the exported graph may have."""
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.fixture(scope="module")
def ran(bundle_folder, tmp_path_factory):
    """The names that the guide's code leaves behind, after all of it."""
    folder, names = tmp_path_factory.mktemp("guide"), {}
    shutil.copytree(bundle_folder, folder / "models" / "synthetic" / "bundle")
    with chdir(folder):
        for kind, code in BLOCK.findall(GUIDE.read_text(encoding="utf-8")):
            if kind == "sh":
                done = CliRunner().invoke(cli.app, shlex.split(code)[1:], catch_exceptions=False)
                assert done.exit_code == 0
            else:
                exec(compile(code, "docs/python.md", "exec"), names)
        yield names


def test_the_guide_predicts_a_study_and_a_table(ran):
    assert ran["prediction"].modalities == ("image", "tabular", "note")
    assert set(ran["prediction"].probabilities) == {"consolidation", "effusion"}
    result, data = ran["result"], ran["data"]
    assert list(result["study_id"]) == list(data["study_id"])
    assert result.loc[result["error"].isna(), "probability.effusion"].between(0, 1).all()


def test_the_guide_explains(ran):
    effusion = ran["effusion"]
    assert effusion.base_probability + sum(effusion.probability_shares.values()) == pytest.approx(
        ran["explained"].prediction.probabilities["effusion"], abs=1e-5
    )
    assert [part.modality for part in effusion.attributions] == ["image", "tabular", "note"]
    assert Path("explanation/index.html").is_file()


def test_training_on_arrays_is_training_on_their_files(ran):
    data = ran["data"]
    arrays = data["image_path"].map(
        lambda name: np.asarray(Image.open(Path("demo") / name)), na_action="ignore"
    )
    given = data.assign(image_path=arrays.astype(object))
    own = cxr_mm.train(ran["task"], given, params=ran["small"], evaluate=False, progress=False)
    inputs = {"image": ran["pixels"], "clinical": {"age": 63}}
    expected = ran["trained"].predict(**inputs).probabilities
    assert own.predict(**inputs).probabilities == pytest.approx(expected)


def test_the_guide_evaluates(ran):
    assert "AUC" in str(ran["results"])
    assert ran["results"].metrics["digest"] == ran["model"].digest
    with pytest.raises(StageError, match="model_card"):
        _ = ran["model"].card


def test_the_exported_graph_answers_as_the_bundle_does(ran):
    bundle, session = ran["model"].predictor.bundle, ran["session"]
    draw = np.random.default_rng(0)
    studies = [
        build_study(
            bundle.task,
            (lambda: Radiograph(draw.random((80, 60), dtype=np.float32))) if image else None,
            {"age": 40 + 20 * note, "crp": 120} if clinical else None,
            "Fever and cough." if note else None,
        )
        for image, clinical, note in np.ndindex(2, 2, 2)
    ]
    encoded = bundle.encode(studies)
    inputs = {name: rows.numpy() for name, rows in vars(encoded.batch).items()}
    logits, probabilities = session.run(None, inputs)
    expected = bundle.logits(encoded.embeddings, encoded.mask).detach()
    np.testing.assert_allclose(logits, expected.numpy(), atol=MOST)
    np.testing.assert_allclose(probabilities, bundle.probabilities(expected), atol=MOST)
    own = ran["model"].predictor.predict(ran["study"]).probabilities
    np.testing.assert_allclose(ran["probabilities"], [list(own.values())], atol=MOST)


def test_the_description_fits_the_graph(ran):
    about = read_json(Path("synthetic-onnx/model.json"))
    assert about["digest"] == ran["model"].digest
    for given in ran["session"].get_inputs():
        assert given.shape[1:] == about["inputs"][given.name]["shape"][1:]
    assert about["thresholds"]["note"].keys() == {"consolidation", "effusion"}


def test_the_guide_trains_and_saves(ran):
    trained = ran["trained"]
    assert trained.task.finding_names == ("effusion",)
    assert trained.digest in trained.card
    assert trained.card._repr_markdown_().startswith("# Model card: Pleural effusion")
    assert bundle_digest(Path("fluid")) == trained.digest
    assert not Path("data").exists()


def test_the_guide_cross_validates(ran):
    assert np.isfinite(ran["scores"]).all()
    assert len(ran["scores"]) == 2


def test_a_temporary_folder_goes_with_its_model(ran):
    (reports,) = ran["trained"]._reports
    assert reports.is_dir()
    del ran["trained"]
    assert not reports.parents[1].exists()
