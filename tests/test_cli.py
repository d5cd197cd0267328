"""Command line: an answer, or one line that says what is wrong; never a traceback."""

import json
import sys

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxr_mm import __version__, cli
from cxr_mm.cli import predict
from cxr_mm.cli.doctor import pending
from cxr_mm.core.errors import RadiographError
from cxr_mm.core.files import write_json, write_parquet
from cxr_mm.core.paths import DATA_ROOT_VARIABLE, TaskPaths
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task, shipped_tasks
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.models.registry import read_index

NOTE = ["--note", "fever, productive cough"]


def answered(*args):
    result = CliRunner().invoke(cli.app, [str(a) for a in args], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return result.stdout


@pytest.fixture
def refused(monkeypatch, capfd):
    """Runs the program; gives the one line it leaves on stderr besides its heartbeat."""

    def run(*args):
        monkeypatch.setattr(sys, "argv", ["cxr-mm", *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capfd.readouterr()
        assert caught.value.code == 2
        assert out == ""
        *beats, line = err.splitlines()
        assert all(beat.startswith(args[:1]) for beat in beats)
        assert line.startswith("error: ")
        return line

    return run


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    """Takes noise for an image."""
    return load_predictor(bundle_folder, accept_any_image=True)


@pytest.fixture
def bundle(bundle_folder, predictor, monkeypatch):
    """Folder of the bundle, which is read only once for this file."""
    known = {bundle_folder: predictor}

    def load(path, accept_any_image=False):
        return known.get(path) or load_predictor(path, accept_any_image)

    monkeypatch.setattr("cxr_mm.inference.predictor.load_predictor", load)
    return bundle_folder


@pytest.fixture
def image(tmp_path):
    path = tmp_path / "image.png"
    grey = np.random.default_rng(0).integers(0, 255, (120, 100)).astype(np.uint8)
    Image.fromarray(grey).save(path)
    return path


def test_json_of_all_three_inputs(bundle, predictor, image):
    text = answered(
        *("predict", "--bundle", bundle, "--image", image, "--clinical", "age=63"),
        *("--clinical", "spo2=88", *NOTE, "--json"),
    )
    result = json.loads(text)
    assert result["study_id"].startswith("study-")
    assert result["task"] == "synthetic"
    assert result["model"] == predictor.bundle.name
    assert result["digest"] == predictor.bundle.digest
    assert result["modalities"] == ["image", "tabular", "note"]
    assert isinstance(result["warnings"], list)
    assert [f["finding"] for f in result["findings"]] == ["consolidation", "effusion"]
    for found in result["findings"]:
        assert 0 < found["probability"] < 1
        assert found["positive"] == (found["probability"] >= found["threshold"])


@pytest.mark.parametrize("given", ["image", "note", "tabular"])
def test_one_input_is_enough(bundle, image, given):
    options = {"image": ["--image", image], "note": NOTE, "tabular": ["--clinical", "crp=140"]}
    result = json.loads(answered("predict", "--bundle", bundle, *options[given], "--json"))
    assert result["modalities"] == [given]


def test_without_json_it_is_told_in_lines(bundle):
    lines = answered("predict", "--bundle", bundle, *NOTE, "--view", "LL").splitlines()
    assert lines[0] == "warning: view: LL was not among those trained on"
    assert lines[1].endswith("from note")
    assert any(
        line.startswith("  Consolidation: ") and "the operating point of" in line for line in lines
    )
    assert lines[-1].startswith("SYNTHETIC DATA. Decision support for research only.")


def test_an_uncertain_finding_is_reported(predictor):
    result = predictor.predict(Study("s", note="fever"))
    sure, uncertain = (
        predict.describe(
            result.model_copy(
                update={
                    "findings": tuple(
                        f.model_copy(update={"certainty": word}) for f in result.findings
                    )
                }
            )
        )
        for word in ("present", "uncertain")
    )
    assert "uncertain" not in sure
    assert "% uncertain, " in uncertain
    assert "uncertain: at 90% coverage no answer is ruled out" in uncertain


def test_a_picture_that_is_no_image_is_refused_unless_any_is_accepted(bundle_folder, image):
    words = ("predict", "--bundle", bundle_folder, "--image", image)
    with pytest.raises(RadiographError, match="does not look like") as refusal:
        CliRunner().invoke(cli.app, [*map(str, words)], catch_exceptions=False)
    assert "--accept-any-image" in str(refusal.value)
    message = answered(*words, "--accept-any-image")
    assert "warning: image: it may be no upright frontal chest radiograph" in message


def test_a_bundle_is_read_from_its_folder(bundle_folder):
    result = json.loads(answered("predict", "--bundle", bundle_folder, *NOTE, "--json"))
    assert result["modalities"] == ["note"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--clinical", "shoe_size=44"], "shoe_size: no such clinical feature"),
        (["--clinical", "age=999"], "age: 999 is out of range"),
        (["--clinical", "age=old"], "age"),
        (["--clinical", "sex=x"], "sex"),
        (["--clinical", "age"], "--clinical: 'age' is not NAME=VALUE. Write it as age=63"),
        (["--clinical", "age=1", "--clinical", "age=2"], "--clinical: age is given twice"),
        (["--image", "nowhere.png"], "nowhere.png"),
        (["--clinical", "age=", "--note", " "], "nothing in it that this model can use"),
        (["--note", "x" * 30_000], "note"),
        (["--note", "Fieber \udcfcber 39"], "note: this is no text. Give plain text in UTF-8"),
        (["--image", "Fever. " * 99], "…: cannot be read (File name too long)"),
        ([], "Give at least one of image, tabular, note"),
    ],
)
def test_bad_input_is_one_line(refused, bundle, options, message):
    assert message in refused("predict", "--bundle", bundle, *options)


def test_text_that_is_called_a_picture(refused, bundle, tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("patient is well\n" * 50)
    assert "notes.png" in refused("predict", "--bundle", bundle, "--image", path)


def test_half_a_picture(refused, bundle, image):
    path = image.with_suffix(".jpg")
    Image.open(image).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert "image.jpg" in refused("predict", "--bundle", bundle, "--image", path)


def test_no_bundle(refused, tmp_path):
    assert "there is no bundle.json" in refused("predict", "--bundle", tmp_path, *NOTE)
    assert "there is no such folder" in refused("predict", "--bundle", tmp_path / "none", *NOTE)


def test_no_project_and_no_task(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "Run this from the project's folder" in refused("resolve", "synthetic")
    assert "nosuch: no such task" in refused("resolve", "nosuch")
    assert "Run dvc repro" in refused("summary", "synthetic")
    assert list(tmp_path.iterdir()) == []


def test_summary_refuses_figures_of_another_model_and_says_what_is_to_come(
    bundle_folder, refused, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models/synthetic").mkdir(parents=True)
    (tmp_path / "models/synthetic/bundle").symlink_to(bundle_folder)
    reports = tmp_path / "reports/synthetic"
    digest = read_index(bundle_folder).digest
    for named in ("0" * 64, digest):
        write_json(reports / "metrics.json", {"digest": named})
        (reports / "model_card.md").write_text(named)
        if named != digest:
            line = refused("summary", "synthetic")
            assert f"of another model, {named[:12]}" in line
            assert digest[:12] in line
    assert pending(TaskPaths("synthetic"), digest) == ["explain", "reference"]
    write_json(reports / "faithfulness.json", {"digest": digest})
    write_json(tmp_path / "models/synthetic/reference/reference.json", {"digest": "0"})
    assert pending(TaskPaths("synthetic"), digest) == ["reference"]


def test_report_opens_its_page_or_says_what_writes_it(refused, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    opened = []
    monkeypatch.setattr("webbrowser.open", opened.append)
    assert "dvc repro evaluate@synthetic" in refused("report", "synthetic")
    page = tmp_path / "reports/synthetic/index.html"
    page.parent.mkdir(parents=True)
    page.write_text("")
    assert answered("report", "synthetic", "--no-open") == "reports/synthetic/index.html\n"
    assert opened == []
    answered("report", "synthetic")
    assert opened == [page.as_uri()]


def test_synthesise_then_score(bundle, refused, tmp_path):
    created = tmp_path / "made"
    answered("synthesise", "--out", created, "--studies", 3, "--seed", 5)
    out = tmp_path / "scored.parquet"
    manifest = ("--manifest", created / "manifest.csv")
    result = answered("score", "--bundle", bundle, *manifest, "--out", out)
    assert result == f"3 studies read, 3 answered, 0 not\npredictions: {out}\n"
    assert out.is_file()
    whole = answered("score", "--bundle", bundle, *manifest, "--out", tmp_path / "scored")
    assert whole.splitlines()[0].endswith("3 answered, 0 not")
    assert "processor seconds for 1,000" in whole.splitlines()[1]
    assert whole.splitlines()[2:] == [f"predictions: {tmp_path / 'scored/predictions'}"]
    listed = answered("worklist", "--bundle", bundle, *manifest, "--out", tmp_path / "scored")
    assert listed.endswith(f"the first 3: {tmp_path / 'scored/worklist.csv'}\n")
    words = ("score", "--bundle", bundle, *manifest, "--out", out)
    assert "Name a folder for --engine ray" in refused(*words, "--engine", "ray")
    assert "--dial colour" in refused("synthesise", "--out", created, "--dial", "colour=1")


def test_tasks_says_which_find_their_data(tmp_path, monkeypatch):
    monkeypatch.setenv(DATA_ROOT_VARIABLE, str(tmp_path))
    lines = answered("tasks").splitlines()
    assert [line.split()[0] for line in lines] == shipped_tasks()
    assert [line.split()[0] for line in lines if " ready " in line] == ["synthetic"]


def test_version():
    assert answered("version") == f"{__version__}\n"


def test_a_stage_gets_the_task_divided_as_params_yaml_says(tmp_path, monkeypatch):
    """So that any task can be cross-validated without a change to its file."""
    monkeypatch.chdir(tmp_path)
    result = "tasks: [pneumonia]\nper_task:\n  pneumonia:\n    split: {protocol: folds, folds: 4}\n"
    (tmp_path / "params.yaml").write_text(result)
    seen = []
    monkeypatch.setattr("cxr_mm.data.split.split", lambda *given: seen.append(given))
    answered("split", "pneumonia")
    ((task, params, paths),) = seen
    assert (task.split.protocol, task.split.folds) == ("folds", 4)
    assert (params.split.protocol, paths.task) == ("folds", "pneumonia")


def test_a_stage_after_ingest_gets_the_findings_that_are_frequent_enough(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "params.yaml").write_text("tasks: [nih]\n")
    paths, names = TaskPaths("nih"), load_task("nih").finding_names
    positives = {f"finding.{name}": [1.0 * (i == 0)] * 40 for i, name in enumerate(names)}
    write_parquet(paths.manifest, pd.DataFrame(positives))
    seen = []
    for stage in ("ingest", "split"):
        monkeypatch.setattr(f"cxr_mm.data.{stage}.{stage}", lambda *given: seen.append(given[0]))
        answered(stage, "nih")
    assert [task.finding_names for task in seen] == [names, names[:1]]
