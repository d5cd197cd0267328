"""MLflow: a logged model that MLflow serves over HTTP answers as `Model.predict_frame` does."""

import base64

import pandas as pd
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

import cxr_mm
from cxr_mm import cli
from cxr_mm.data.synthetic.population import CLINICAL, SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise

MOST = 1e-6
"""Difference that an answer over HTTP may have."""
pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own classes


@pytest.fixture
def studies(tmp_path):
    """Four studies with images as bytes; the third has its image alone, the last has nothing."""
    spec = SynthesisSpec(studies=4, image_absent=0, note_absent=0)
    folder = synthesise(tmp_path / "demo", spec, workers=1)
    table = pd.read_csv(folder / "manifest.csv")
    images = [(folder / name).read_bytes() for name in table["image_path"]]
    table["image_path"] = pd.Series([*images[:3], None], dtype=object)
    table.loc[2:, ["note", *CLINICAL]] = None
    return table


@pytest.fixture
def mlflow(tmp_path, monkeypatch):
    """MLflow with a folder to log to, since its databases need more packages."""
    import mlflow.pyfunc

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "true")  # its server leaves this set
    return mlflow


def served(model, table):
    """Answers of MLflow's own server to a table, as JSON has them."""
    from mlflow.pyfunc.scoring_server import init

    cells = [cell and base64.b64encode(cell).decode() for cell in table["image_path"]]
    split = table.assign(image_path=cells).to_json(orient="split", index=False)
    answer = TestClient(init(model)).post(
        "/invocations",
        content=f'{{"dataframe_split": {split}}}',
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 200, answer.text
    return pd.DataFrame(answer.json()["predictions"])


def test_a_logged_model_is_served_and_answers_as_the_bundle_does(
    bundle_folder, studies, mlflow, tmp_path
):
    from cxr_mm.export.mlflow import pyfunc_arguments

    with mlflow.start_run():
        logged = mlflow.pyfunc.log_model(name="chest", **pyfunc_arguments(bundle_folder))
    found = served(mlflow.pyfunc.load_model(logged.model_uri), studies)
    expected = cxr_mm.load(bundle_folder).predict_frame(studies, progress=False)
    assert expected["error"].notna().tolist() == [False, False, False, True]
    pd.testing.assert_frame_equal(found, expected, check_dtype=False, rtol=0, atol=MOST)


def test_an_exported_model_answers_its_own_example_and_reads_no_path(
    bundle_folder, studies, mlflow, tmp_path
):
    out = tmp_path / "model"
    words = ["export", "--bundle", str(bundle_folder), "--format", "mlflow", "--out", str(out)]
    assert CliRunner().invoke(cli.app, words, catch_exceptions=False).exit_code == 0
    model = mlflow.pyfunc.load_model(out)
    example = model.metadata.load_input_example(out)
    path = str(next((tmp_path / "demo/images").iterdir()))
    asked = pd.concat([example, example.assign(study_id="path", image_path=path)])
    answer = model.predict(asked)
    assert answer["modalities"].tolist() == ["image+tabular+note", "tabular+note"]
    assert not answer["warnings"].iloc[0]
    assert "image" in answer["warnings"].iloc[1]
    assert list(answer) == model.metadata.get_output_schema().input_names()
    assert model.metadata.get_input_schema().input_types()[4] == mlflow.types.DataType.double
