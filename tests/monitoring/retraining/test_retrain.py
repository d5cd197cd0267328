"""A small project from a labelled window to a version that serves, by the pipeline itself."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pandas as pd
import pytest

from cxr_mm.core.errors import ManifestError, StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import load_split
from cxr_mm.data.studies import iter_studies
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.registry import read_index
from cxr_mm.prediction_log import open_log
from monitoring.reference import load_reference
from monitoring.retraining.comparison import Margins
from monitoring.retraining.promotion import promote
from monitoring.retraining.retrain import EXPERIMENTS, RetrainRequest, retrain
from monitoring.window import read_outcomes

FINDINGS = ["consolidation", "effusion"]
WIDE = Margins(auc=0.49, subgroup_auc=0.49, brier=0.49, ece=0.49)


@pytest.fixture(scope="module")
def project(folds_project, tmp_path_factory):
    """The champion's project."""
    root = tmp_path_factory.mktemp("retrain") / "project"
    shutil.copytree(folds_project, root)
    return root


@pytest.fixture(scope="module")
def log(project, came_since, pipeline):
    """Predictions of all but the last ten, without outcomes."""
    url = f"sqlite:///{project}/log.db"
    predictor = load_predictor(project / "models/synthetic/bundle", accept_any_image=True)
    studies = list(iter_studies(pipeline.task, came_since / "manifest.csv"))
    with open_log(url) as opened:
        for study in studies[:-10]:
            opened.append_many(predictor.answer([study]))
    return url


@pytest.fixture(scope="module")
def retrain_request(project, came_since, log):
    return RetrainRequest(
        project / "models/synthetic/bundle", log, came_since, margins=WIDE, project=project
    )


def bytes_of(folder):
    return {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def record(retrain_request, project):
    """The run, killed once while a stage is at work."""
    before = bytes_of(project / "models")
    code = (
        "from pathlib import Path; from monitoring.retraining.retrain import *; "
        f"retrain(RetrainRequest(Path({str(retrain_request.bundle)!r}), {retrain_request.log!r}, "
        f"Path({str(retrain_request.studies)!r}), "
        f"margins=Margins(**{WIDE.model_dump()}), project=Path({str(project)!r})))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    try:
        wait_for(project / EXPERIMENTS, "data/synthetic/ingest/manifest.parquet", process)
        os.killpg(process.pid, signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    found = retrain(retrain_request)
    assert bytes_of(project / "models") == before
    return found


def wait_for(folder, name, process, seconds=300):
    until = time.monotonic() + seconds
    while not any(folder.glob(f"*/*/{name}")):
        assert process.poll() is None
        assert time.monotonic() < until
        time.sleep(0.1)


def test_the_challenger_is_trained_on_the_older_part_and_tested_as_the_champion_was(
    record, project, pipeline
):
    paths = TaskPaths("synthetic", project / record.experiment)
    manifest, table = load_manifest(paths, pipeline.task).frame, load_split(paths)
    added = manifest["part"].eq("added").to_numpy()
    assert added.sum() == record.protocol["studies"]["handed in, labelled and older"]
    assert set(table["part"][added]) == {"train"}
    champion = TaskPaths("synthetic", project)
    pd.testing.assert_frame_equal(table[~added].reset_index(drop=True), load_split(champion))
    before, after = (
        read_index(folder / "bundle").trained_on for folder in (champion.models, paths.models)
    )
    assert after["studies"] == before["studies"] + added.sum()


def test_no_patient_is_both_trained_on_and_kept_back(record, project):
    folder = project / record.experiment
    older = pd.read_csv(folder / "additions/synthetic" / record.addition / "manifest.csv")
    newest = pd.read_csv(folder / "newest/manifest.csv")
    assert not set(older["patient_id"]) & set(newest["patient_id"])
    assert len(newest) >= 0.4 * (len(older) + len(newest))
    assert len(older) + len(newest) == 90


def test_the_record_says_what_changed_on_what_evidence_and_what_it_would_mean(record, project):
    data = record.change["data"]
    assert list(data["additions"]) == [record.addition]
    assert data["challenger"]["studies"] > data["champion"]["studies"]
    assert {(line["sample"], line["group"]) for line in record.comparisons} >= {
        ("frozen test", "all"),
        ("newest", "all"),
        ("newest", "sex: female"),
    }
    newest = [
        one for one in record.comparisons if one["sample"] == "newest" and one["group"] == "all"
    ]
    assert {(one["finding"], one["metric"]) for one in newest} == {
        (finding, metric) for finding in FINDINGS for metric in ("auc", "brier", "ece")
    }
    for finding in FINDINGS:
        assert record.impact["turned"][finding]["n"] == newest[0]["n"]
    assert record.protocol["studies"]["left out: not in the window of the log"] == 10
    page = (project / "serving/synthetic/changes" / f"{record.id}.md").read_text()
    assert record.challenger.digest in page
    assert "Made-up studies" in page
    assert "sex: female" in page


def test_asked_again_nothing_is_done_again(record, retrain_request, project):
    started = time.monotonic()
    assert retrain(retrain_request).id == record.id
    assert time.monotonic() - started < 60
    (experiment,) = (project / EXPERIMENTS / "synthetic").iterdir()
    (done,) = (experiment / "done").iterdir()
    assert read_json(done)["record"] == record.id


def test_other_margins_compare_the_same_challenger_without_training_anew(
    record, retrain_request, project
):
    (experiment,) = (project / EXPERIMENTS / "synthetic").iterdir()
    trained = bytes_of(experiment / "models")
    narrow = Margins(auc=0.001, subgroup_auc=0.001, brier=0.001, ece=0.001)
    other = retrain(replace(retrain_request, margins=narrow))
    assert list((project / EXPERIMENTS / "synthetic").iterdir()) == [experiment]
    assert bytes_of(experiment / "models") == trained
    assert (other.challenger, other.outcome) == (record.challenger, "rejected")
    assert other.protocol["margins"]["auc"] == 0.001


def test_promoted_the_challenger_serves_with_its_reference_and_card(record, project):
    pointer = promote(record.id, "A. Reader", project)
    version = project / "serving/synthetic" / pointer.folder
    assert load_predictor(version / "bundle").bundle.digest == record.challenger.digest
    assert load_reference(version / "reference").digest == record.challenger.digest
    assert record.challenger.digest in (version / "reports" / "model_card.md").read_text()


def test_folder_and_log_that_contradict_each_other_are_an_error_naming_the_study(
    retrain_request, came_since, project, tmp_path
):
    table = pd.read_csv(came_since / "manifest.csv", dtype=str)
    study = table[table["effusion"].notna()].iloc[3]
    result = "0" if float(study["effusion"]) else "1"
    outcomes = tmp_path / "outcomes.csv"
    outcomes.write_text(f"study_id,effusion\n{study['study_id']},{result}\n")
    shutil.copy(project / "log.db", tmp_path / "log.db")
    shutil.copy(project / "log.db.secret", tmp_path / "log.db.secret")
    url = f"sqlite:///{tmp_path}/log.db"
    with open_log(url) as opened:
        opened.add_outcomes(read_outcomes(outcomes, FINDINGS, opened.hash_id))
    with pytest.raises(ManifestError, match=study["study_id"]):
        retrain(
            RetrainRequest(retrain_request.bundle, url, retrain_request.studies, project=project)
        )


def test_a_project_without_a_pipeline_is_refused(retrain_request, tmp_path):
    shutil.copytree(retrain_request.project / "tasks", tmp_path / "tasks")
    with pytest.raises(StageError, match=r"dvc\.yaml"):
        retrain(
            RetrainRequest(
                retrain_request.bundle,
                retrain_request.log,
                retrain_request.studies,
                project=tmp_path,
            )
        )
