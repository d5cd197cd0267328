"""New bundle: where it may go, what it remembers, and that it answers as was measured."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from cxr_mm.cli import app
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import read_json, sha256_file
from cxr_mm.evaluation.external import validate
from cxr_mm.evaluation.external.recalibrate import (
    check_destination,
    fit_recalibration,
    recalibrated,
)
from cxr_mm.evaluation.external.validate import evaluate_on
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.bundle import RECALIBRATED, load_bundle

QUICK = EvaluateParams(bootstrap=100)
STUDIES = 120


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    return load_predictor(bundle_folder)


@pytest.fixture
def centre(pipeline, tmp_path):
    """Clinical features alone, of a centre where both findings are rarer."""
    rng = np.random.default_rng(0)
    names = list(pipeline.task.clinical_names)
    created = pd.read_csv(pipeline.paths.ingest / "source" / "manifest.csv")
    frame = created.sample(STUDIES, replace=True, random_state=0).reset_index(drop=True)
    frame["study_id"] = [f"x{i}" for i in range(STUDIES)]
    frame["patient_id"] = [f"p{i}" for i in range(STUDIES)]
    for finding in pipeline.task.finding_names:
        frame[finding] = (rng.random(STUDIES) < 0.35).astype(int)
    path = tmp_path / "centre.csv"
    columns = ["study_id", "patient_id", *names, *pipeline.task.finding_names]
    frame[columns].to_csv(path, index=False)
    return path


@pytest.fixture
def undrawn(monkeypatch):
    monkeypatch.setattr("cxr_mm.evaluation.external.validate.write_plots", lambda *args: None)


@pytest.fixture
def written(predictor, centre, undrawn, tmp_path):
    out = evaluate_on(predictor, centre, tmp_path / "out", QUICK, tmp_path / "new")
    return out, tmp_path / "new"


def test_the_new_bundle_answers_as_the_table_says(predictor, centre, written):
    out, folder = written
    table = pd.read_parquet(out / "predictions.parquet")
    task = predictor.bundle.task
    message = read_json(out / "metrics.json")["recalibration"]
    new = load_bundle(folder)
    assert (message["bundle"], message["digest"]) == (str(folder), new.digest)
    assert new.digest != predictor.bundle.digest
    again = evaluate_on(type(predictor)(new), centre, folder.parent / "again", QUICK)
    after = pd.read_parquet(again / "predictions.parquet")
    targets = validate.Targets.of(predictor.bundle)
    expected = recalibrated(task, table, fit_recalibration(task, table, targets), targets.decision)
    for name in task.finding_names:
        for part in ("probability", "threshold"):
            column = f"{part}.{name}"
            np.testing.assert_allclose(after[column], expected[column], rtol=1e-4, atol=1e-6)
        # A bound is the probability of a study, which rounding may put on either side of it.
        bounds = new.conformal["tabular"][name]
        separate = [
            (after[f"probability.{name}"] - b).abs() > 1e-5
            for b in (bounds.present_from, bounds.absent_to)
        ]
        sure = separate[0] & separate[1]
        assert sure.mean() > 0.8
        assert (after[f"certainty.{name}"] == expected[f"certainty.{name}"])[sure].all()
    lines = (again / "summary.txt").read_text().splitlines()
    assert "recalibrated" in lines[0]


def test_its_origin_is_written_down(predictor, centre, written):
    out, folder = written
    (record,) = load_bundle(folder).trained_on[RECALIBRATED]
    assert record["parent"] == predictor.bundle.digest
    assert record["manifest"] == "centre.csv"
    assert record["manifest_sha256"] == sha256_file(centre)
    used = read_json(out / "metrics.json")
    assert (record["studies"], record["patients"]) == (used["n_studies"], used["n_patients"])
    assert len(record["warnings"]) == 2  # labels were drawn at random
    methods = {u["method"] for u in record["updates"]["tabular"].values()}
    assert methods <= {"none", "intercept", "intercept_and_slope"}
    assert set(record["left"]) == {
        "image",
        "note",
        "image+tabular",
        "image+note",
        "tabular+note",
        "image+tabular+note",
    }


def test_the_old_bundle_is_as_it_was(bundle_folder, predictor, written):
    old = load_bundle(bundle_folder)  # which checks every part against its digest
    assert old.digest == predictor.bundle.digest
    now = predictor.bundle.fusion.state_dict()
    assert all(values.equal(now[name]) for name, values in old.fusion.state_dict().items())


@pytest.mark.parametrize(
    ("folder_name", "words"),
    [
        ("there", "exists already, and a bundle is never overwritten"),
        ("link", "exists already"),
        ("out/new", "must not hold each other"),
        ("out", "must not hold each other"),
        ("bundle/new", "nothing may be written into the bundle"),
        ("bundle/deep/new", "nothing may be written into the bundle"),
    ],
)
def test_a_place_that_is_taken_or_would_do_harm_is_refused(tmp_path, folder_name, words):
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    with pytest.raises(InputError, match=words):
        check_destination(tmp_path / folder_name, tmp_path / "out")


def test_a_report_inside_a_bundle_or_the_new_one_is_refused(predictor, centre, tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "bundle.json").write_text("{}")
    with pytest.raises(InputError, match="nothing may be written into the bundle"):
        evaluate_on(predictor, centre, tmp_path / "bundle" / "report", QUICK)
    with pytest.raises(InputError, match="must not hold each other"):
        check_destination(tmp_path / "new", tmp_path / "new" / "report")


def test_interrupted_it_leaves_nothing_behind(predictor, centre, undrawn, tmp_path, monkeypatch):
    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cxr_mm.models.bundle._save_parts", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluate_on(predictor, centre, tmp_path / "out", QUICK, tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"centre.csv"}


def test_subsets_too_small_each_are_refused_before_anything_is_written(
    predictor, centre, undrawn, tmp_path
):
    """Enough patients in all, but after bad rows none of the subsets has them."""
    frame = pd.read_csv(centre, dtype=str)
    frame.loc[30:, "note"] = "x" * 30_000
    frame.to_csv(centre, index=False)
    with pytest.raises(ManifestError, match="no subset of the modalities has 20 patients"):
        evaluate_on(predictor, centre, tmp_path / "out", QUICK, tmp_path / "new")
    assert {p.name for p in tmp_path.iterdir()} == {"centre.csv"}


def test_a_folder_that_came_to_be_meanwhile_is_not_overwritten(
    predictor, centre, undrawn, tmp_path, monkeypatch
):
    def slow(*args):
        shutil.copytree(centre.parent, tmp_path / "new", ignore=lambda *a: ["new"])

    monkeypatch.setattr("cxr_mm.evaluation.external.validate.write_plots", slow)
    with pytest.raises(InputError, match="never overwritten"):
        evaluate_on(predictor, centre, tmp_path / "out", QUICK, tmp_path / "new")
    assert (tmp_path / "new" / "centre.csv").exists()
    assert not (tmp_path / "out").exists()


def test_command_line(predictor, centre, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    quick = replace(predictor.bundle)
    monkeypatch.setattr(
        "cxr_mm.inference.predictor.load_predictor", lambda *args: type(predictor)(quick)
    )
    paths = ["--manifest", str(centre), "--out", str(tmp_path / "out")]
    new = ["--recalibrate", str(tmp_path / "new")]
    requested = ["evaluate-on", "--bundle", "any", *paths, *new]
    result = CliRunner().invoke(app, requested, catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == (tmp_path / "out" / "summary.txt").read_text()
    assert f"new bundle: {tmp_path / 'new'}" in result.stdout
    with pytest.raises(InputError, match="never overwritten"):
        CliRunner().invoke(app, requested, catch_exceptions=False)
