"""Tracking: what MLflow is told of the stages, and that it cannot stop one."""

import logging

import pytest

from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import bundle_digest
from cxr_mm.core.progress import UNTRACKED
from cxr_mm.evaluation.evaluate import CARD_FILE, HEADLINE_FILE, evaluate
from cxr_mm.export import tracking
from cxr_mm.export.tracking import tracking_run
from cxr_mm.training.train_image import train_image

pytestmark = pytest.mark.filterwarnings("ignore:.*Any type hint")  # of MLflow's own classes


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Runs of a task on MLflow, which has a folder in the place of a server."""
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    from mlflow import MlflowClient

    def found(task):
        client = MlflowClient()
        experiment = client.get_experiment_by_name(f"cxr_mm/{task}")
        return client, client.search_runs([experiment.experiment_id])

    return found


def test_a_training_sends_its_parameters_and_each_epoch(runs, spots, spot_task, spot_params):
    with tracking_run("auto", "spot", "train_image") as server:
        train_image(spot_task(), spot_params(), spots, server)
    client, (run,) = runs("spot")
    assert (run.info.status, run.data.tags["stage"]) == ("FINISHED", "train_image")
    assert run.data.params["backbone"] == "small_cnn"
    epochs = read_json(spots.image_encoder / "history.json")["epochs"]
    sent = client.get_metric_history(run.info.run_id, "val/loss")
    assert [(m.step, m.value) for m in sent] == [(e["epoch"], e["val_loss"]) for e in epochs]


def test_an_evaluation_sends_figures_digest_and_card(runs, pipeline, monkeypatch):
    monkeypatch.setenv("DVC_EXP_NAME", "tried-late")
    task, params, paths = pipeline.task, pipeline.params, pipeline.paths
    with tracking_run("mlflow", task.name, "evaluate") as server:
        evaluate(task, params, paths, server)
    client, (run,) = runs(task.name)
    assert run.data.tags["bundle"] == bundle_digest(paths.bundle)
    assert run.data.tags["dvc.experiment"] == "tried-late"
    assert run.data.params["fuse.fusion"] == params.fuse.fusion
    headline = read_json(paths.reports / HEADLINE_FILE)
    assert run.data.metrics == {n: v for n, v in headline.items() if v is not None}
    assert [f.path for f in client.list_artifacts(run.info.run_id)] == [CARD_FILE]
    assert not {"mlflow.user", "mlflow.source.name"} & run.data.tags.keys()


def test_a_stage_that_fails_is_a_failed_run(runs):
    def fails():
        with tracking_run("auto", "spot", "fuse") as server:
            server.tag("bundle", "none")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()
    assert [run.info.status for run in runs("spot")[1]] == ["FAILED"]


def test_a_server_that_is_away_is_one_warning(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    for name in tracking.PATIENCE:
        monkeypatch.setenv(name, "1")
    with caplog.at_level(logging.WARNING), tracking_run("auto", "spot", "fuse") as server:
        server.parameters({"fusion": "late"})
        server.figures({"auc": 0.5})
    (warning,) = [r for r in caplog.records if r.name == tracking.__name__]
    assert "http://127.0.0.1:9 takes nothing more of this run" in warning.getMessage()


def test_nothing_is_sent_unless_asked_and_what_is_missing_is_named(monkeypatch, caplog):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with tracking_run("auto", "spot", "fuse") as server:
        assert server is UNTRACKED
    with pytest.raises(InputError, match="MLFLOW_TRACKING_URI"), tracking_run("mlflow", "a", "b"):
        pass
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with tracking_run("off", "spot", "fuse") as server:
        assert server is UNTRACKED
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"cxr-mm\[mlflow\]"), tracking_run("mlflow", "a", "b"):
        pass
    with tracking_run("auto", "spot", "fuse") as server:
        assert server is UNTRACKED
    assert "not tracked" in caplog.text
