"""The report as its user runs it: folder, one line, exit code."""

import json
import sys
from datetime import UTC, datetime, timedelta

import pytest

from cxr_mm.core.files import write_json
from cxr_mm.core.record import Outcome
from cxr_mm.prediction_log import open_log
from monitoring.cli import main
from monitoring.reference import FORMAT


@pytest.fixture
def run(monkeypatch, capsys):
    """Run `python -m monitoring …`: exit code, stdout, stderr."""

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["monitoring", *map(str, words)])
        with pytest.raises(SystemExit) as stopped:
            main()
        out, err = capsys.readouterr()
        return stopped.value.code or 0, out, err

    return command


@pytest.fixture
def logged(tmp_path, make):
    """A log with records of made-up studies whose ids are `STUDY`."""
    url = f"sqlite:///{tmp_path / 'log.db'}"

    def write(n, seed, **drift):
        records, outcomes = make(n, seed, **drift)
        with open_log(url) as log:
            names = {r.study_hash: log.hash_id(r.study_hash) for r in records}
            log.add_records(
                r.model_copy(update={"study_hash": names[r.study_hash]}) for r in records
            )
        return records, outcomes

    return url, write


def test_drifted_window_is_reported_and_alarms(run, logged, bundle, tmp_path):
    url, write = logged
    write(60, 21, age=1.5, prefix="<b>new</b>")
    out = tmp_path / "out"
    code, result, _ = run("report", "--bundle", bundle, "--log", url, "--out", out)
    assert code == 20
    assert result.startswith("ALARM made_up: 60 studies, 0 labelled. First: Age (a): median")
    assert result.count("\n") == 1
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["status"] == "alarm"
    assert verdict["reasons"][0]["name"] == "clinical.age"
    summary = (out / "summary.html").read_text()
    assert "Made-up &lt;question&gt;" in summary
    assert "http" not in summary
    page = out / "report.html"
    assert 1_000_000 < page.stat().st_size < 10_000_000
    evidently = json.loads((out / "report.json").read_text())
    names = [m["metric_name"] for m in evidently["metrics"]]
    assert any("EmbeddingsDrift" in n and "image_pc" in n for n in names)
    drifted = next(m for m in evidently["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    alarmed = {
        r["name"]
        for r in verdict["reasons"]
        if r["level"] == "alarm" and r["name"] not in ("image_pc", "note_pc")
    }
    assert drifted["value"]["count"] == len(alarmed)


@pytest.fixture
def pageless(monkeypatch):
    """Reports without Evidently's page, which takes seconds."""
    monkeypatch.setattr("monitoring.report.evidently.write_page", lambda *_: None)


@pytest.mark.usefixtures("pageless")
def test_labels_are_added_and_used(run, logged, bundle, tmp_path):
    url, write = logged
    records, outcomes = write(60, 22, slope=-1.0)
    csv = tmp_path / "labels.csv"
    lines = [f"{r.study_hash},{o.label}" for r, o in zip(records, outcomes, strict=True)]
    csv.write_text("\n".join(["study_id,pneumonia", *lines, "unheard of,1"]))
    code, result, _ = run("labels", "--log", url, "--csv", csv, "--bundle", bundle)
    assert (code, result) == (0, "61 outcomes of 61 studies added, 60 of them in the log\n")
    out = tmp_path / "out"
    assert run("report", "--bundle", bundle, "--log", url, "--out", out)[0] == 20
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["n_labelled"] == 60
    assert "concept" in {r["drift"] for r in verdict["reasons"]}


def test_labels_of_one_report_stay_out_of_the_log(run, logged, bundle, tmp_path):
    url, write = logged
    records, _ = write(10, 23)
    csv = tmp_path / "labels.csv"
    csv.write_text("study_id,pneumonia\n" + "".join(f"{r.study_hash},1\n" for r in records))
    out = tmp_path / "out"
    words = ["report", "--bundle", bundle, "--log", url, "--out", out]
    code, result, _ = run(*words, "--labels", csv)
    assert code == 3
    assert "10 studies: too few to judge" in result
    assert json.loads((out / "verdict.json").read_text())["n_labelled"] == 10
    assert not (out / "report.html").exists()
    run(*words)
    assert json.loads((out / "verdict.json").read_text())["n_labelled"] == 0


@pytest.mark.usefixtures("pageless")
def test_window_bounds_and_other_models_are_said(run, logged, bundle, tmp_path):
    url, write = logged
    write(30, 24)
    write(5, 25, digest="b" * 64, prefix="other")
    out = tmp_path / "out"
    words = ["report", "--bundle", bundle, "--log", url, "--out", out]
    assert run(*words, "--since", "2026-03-01T00:10", "--until", "2026-03-01T00:15")[0] == 3
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["n"] == 5
    run(*words)
    verdict = json.loads((out / "verdict.json").read_text())
    assert verdict["n"] == 30
    assert verdict["notes"][0] == "5 predictions of other models left out: bbbbbbbbbbbb (5)"


def test_what_cannot_be_reported_is_one_line_and_exit_code_2(run, logged, bundle, tmp_path):
    url, write = logged
    words = ["report", "--bundle", bundle, "--log", url]
    nowhere = tmp_path / "nowhere"

    def refused(*command):
        code, out, err = run(*command)
        assert (code, out, err.count("\n")) == (2, "", 1), err
        return err

    assert "no such file" in refused(*words)
    write(30, 26)
    assert "not a time" in refused(*words, "--since", "yesterday")
    assert "no reference" in refused("report", "--bundle", nowhere / "bundle", "--log", url)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("precious")
    assert "is no report" in refused(*words, "--out", mine)
    assert (mine / "thesis.txt").exists()
    ood = tmp_path / "foreign" / "bundle"
    write_json(ood / "bundle.json", {"digest": "c" * 64})
    frozen = ["--reference", bundle.parent / "reference"]
    assert "this is cccccccccccc" in refused("report", "--bundle", ood, "--log", url, *frozen)
    damaged = tmp_path / "damaged"
    write_json(damaged / "reference.json", {"format": FORMAT})
    assert "no reference" in refused(*words, "--reference", damaged)


def test_a_silent_window_is_too_small_to_judge_and_says_whose_predictions_it_holds(
    run, logged, bundle, tmp_path
):
    url, write = logged
    write(30, 26, digest="b" * 64)
    words = ["report", "--bundle", bundle, "--log", url, "--out", tmp_path / "out"]
    code, result, _ = run(*words)
    assert code == 3
    assert "0 studies: too few" in result
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert verdict["notes"][0] == "30 predictions of other models left out: bbbbbbbbbbbb (30)"
    code, _, _ = run(*words, "--since", "2027-01-01")
    verdict = json.loads((tmp_path / "out" / "verdict.json").read_text())
    assert (code, verdict["n"], verdict["first"]) == (3, 0, None)


def test_help_names_every_verb(run):
    code, out, _ = run("--help")
    assert code == 0
    assert all(verb in out for verb in ("report", "reference", "labels"))


@pytest.mark.usefixtures("pageless")
def test_outcome_later_than_another_replaces_it_in_the_report(run, logged, bundle, tmp_path):
    url, write = logged
    records, _ = write(25, 27)
    with open_log(url) as log:
        for label, day in ((1, 2), (0, 3)):
            log.add_outcomes(
                Outcome(
                    study_hash=log.hash_id(r.study_hash),
                    finding="pneumonia",
                    label=label,
                    recorded_at=datetime(2026, 3, 1, tzinfo=UTC) + timedelta(days=day),
                )
                for r in records
            )
    out = tmp_path / "out"
    run("report", "--bundle", bundle, "--log", url, "--out", out)
    figures = json.loads((out / "verdict.json").read_text())["performance"]["window"]
    assert {f["metric"] for f in figures} == {"specificity", "brier", "calibration"}
