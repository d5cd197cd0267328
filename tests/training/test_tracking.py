"""Tracking: what MLflow is told of the stages, by a folder and by a server of its own."""

import os
import signal
import subprocess
import sys

import httpx
import pytest

from benchmarks.system.pacs_peers import awaited, free_port
from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.core.progress import UNTRACKED
from cxr_mm.evaluation.evaluate import CARD_FILE, HEADLINE_FILE, evaluate
from cxr_mm.export.tracking import tracking_run
from cxr_mm.training.train_image import train_image

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own classes


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a server of MLflow with a database of its own."""
    pytest.importorskip("alembic", reason="pip install mlflow, of which cxr-mm needs the client")
    port = str(free_port())
    address = f"http://127.0.0.1:{port}"
    words = ("--backend-store-uri", "sqlite:///runs.db", "--artifacts-destination", "files")
    with subprocess.Popen(
        [sys.executable, "-m", "mlflow", "server", *words, "--workers", "1", "--port", port],
        cwd=tmp_path_factory.mktemp("mlflow"),
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        start_new_session=True,
    ) as process:
        assert awaited(lambda: is_up(f"{address}/health"), 120)
        yield address
        os.killpg(process.pid, signal.SIGTERM)


def is_up(url):
    try:
        return httpx.get(url).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(params=["folder", "server"])
def newest(request, tmp_path, monkeypatch):
    """Finds a client and the newest run of a task, in MLflow's folder or on its server."""
    pytest.importorskip("mlflow")
    if request.param == "folder":
        monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
        monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    else:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", request.getfixturevalue("server"))
    from mlflow import MlflowClient

    def found(task):
        client = MlflowClient()
        experiment = client.get_experiment_by_name(f"cxr_mm/{task}")
        return client, client.search_runs([experiment.experiment_id])[0]

    return found


def test_a_training_sends_its_parameters_and_each_epoch(newest, spots, spot_task, spot_params):
    with tracking_run("auto", "spot", "train_image") as server:
        train_image(spot_task(), spot_params(), spots, server)
    client, run = newest("spot")
    assert (run.info.status, run.data.tags["stage"]) == ("FINISHED", "train_image")
    assert run.data.params["backbone"] == "small_cnn"
    epochs = read_json(spots.image_encoder / "history.json")["epochs"]
    sent = client.get_metric_history(run.info.run_id, "val/loss")
    assert [(m.step, m.value) for m in sent] == [(e["epoch"], e["val_loss"]) for e in epochs]


def test_an_evaluation_sends_figures_digest_and_card(newest, pipeline, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "tried-late")
    task, params, paths = pipeline.task, pipeline.params, pipeline.paths
    with tracking_run("mlflow", task.name, "evaluate") as server:
        evaluate(task, params, paths, server)
    client, run = newest(task.name)
    assert run.data.tags["bundle"] == bundle_digest(paths.bundle)
    assert run.data.tags["dvc.experiment"] == "tried-late"
    assert run.data.params["fuse.fusion"] == params.fuse.fusion
    headline = read_json(paths.reports / HEADLINE_FILE)
    assert run.data.metrics == {n: v for n, v in headline.items() if v is not None}
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == [CARD_FILE]
    assert not {"mlflow.user", "mlflow.source.name"} & run.data.tags.keys()


def test_a_stage_that_fails_is_a_failed_run(newest):
    def fails():
        with tracking_run("auto", "spot", "fuse") as server:
            server.tag("bundle", "none")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert newest("spot")[1].info.status == "FAILED"


def test_nothing_is_sent_unless_asked_and_what_is_missing_is_named(monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking_run("auto", "spot", "fuse") as server:
        assert server is UNTRACKED
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"), tracking_run("mlflow", "a", "b"):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking_run("off", "spot", "fuse") as server:
        assert server is UNTRACKED
    monkeypatch.setitem(sys.modules, "mlflow.entities", None)
    with pytest.raises(InputError, match=r"cxr-mm\[mlflow\]"), tracking_run("mlflow", "a", "b"):
        pass
    with tracking_run("auto", "spot", "fuse") as server:
        assert server is UNTRACKED
    assert "not tracked" in caplog.text
