"""The guide docs/python.md, run as it stands: predict, explain, evaluate, train, cross-validate."""

import re
import shlex
import shutil
from contextlib import chdir
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cxr_mm import cli
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import bundle_digest

GUIDE = Path(__file__).parents[2] / "docs" / "python.md"
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


def test_the_guide_evaluates(ran):
    assert "AUC" in str(ran["results"])
    assert ran["results"].metrics["digest"] == ran["model"].digest
    with pytest.raises(StageError, match="model_card"):
        _ = ran["model"].card


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
