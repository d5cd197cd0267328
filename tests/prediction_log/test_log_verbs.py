"""The verbs on the log: what they print, ask and answer by their exit code."""

import pyarrow.parquet as pq
import pytest
import typer
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from cxr_mm.prediction_log import PredictionLog, SpooledLog
from monitoring.cli.log import commands

SECRET = "a secret that is long enough"


@pytest.fixture(autouse=True)
def _secret(monkeypatch):
    monkeypatch.setenv("CXR_MM_LOG_SECRET", SECRET)


@pytest.fixture
def log(url, answer):
    with PredictionLog(url, SECRET) as opened:
        opened.append_many([answer("1", "p"), answer("2", "q")])
        yield opened


@pytest.fixture
def run(url):
    def run(verb, *arguments, typed=None):
        app = typer.Typer()
        app.add_typer(commands)
        return CliRunner().invoke(app, [verb, "--log", url, *arguments], input=typed)

    return run


def test_a_whole_log_ends_with_0_and_the_heads_that_the_next_run_takes(log, run, answer):
    found = run("verify")
    assert found.exit_code == 0
    assert "predictions: 2 rows hold, 0 of them erased" in found.output
    heads = " ".join(line for line in found.output.splitlines() if line.startswith("--head"))
    log.append(answer())
    assert run("verify", *heads.split()).exit_code == 0


def test_a_broken_log_ends_with_20_and_says_where(log, run, url):
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.execute(text("UPDATE predictions SET positives = '{}' WHERE position = 2"))
    engine.dispose()
    found = run("verify")
    assert found.exit_code == 20
    assert "predictions: row 2 was changed" in found.output


def test_erase_says_what_will_go_and_does_it_only_when_confirmed(log, run):
    requested = run("erase", "--patient", "p", typed="n\n")
    assert requested.exit_code == 1
    assert "To go: 1 prediction, 0 outcomes, 0 events." in requested.output
    assert len(log.read_window("icu")) == 2
    assert run("erase", "--patient", "p", typed="y\n").exit_code == 0
    assert len(log.read_window("icu")) == 1
    assert "Erased: 1 prediction" in run("erase", "--patient", "q", "--yes").output


def test_one_study_is_erased_by_its_id(log, run):
    found = run("erase", "--study", "1", typed="y\n")
    assert "To go: 1 prediction, 0 outcomes, 0 events." in found.output
    assert len(log.read_window("icu")) == 1


def test_erase_needs_a_patient_or_a_study_and_not_both(log, run):
    for words in ((), ("--patient", "p", "--study", "1")):
        assert "Give --patient or --study" in str(run("erase", *words, "--yes").exception)
    assert len(log.read_window("icu")) == 2


def test_retain_removes_what_is_older(log, run):
    assert "Removed: 0 predictions" in run("retain", "--before", "2026-01-01", "--yes").output
    assert "Removed: 2 predictions" in run("retain", "--before", "2999-01-01", "--yes").output
    assert run("verify").exit_code == 0


def test_what_still_waits_is_reported(log, run, url, locked, answer):
    waiting = SpooledLog(url, SECRET, wait=0.05, retry=60)
    with locked():
        waiting.append(answer("3", "p"))
    waiting.close()
    assert "still wait in" in run("erase", "--patient", "p", "--yes").output


def test_export_writes_a_window(log, run, tmp_path):
    file = tmp_path / "x.parquet"
    found = run("export", "--task", "icu", "--out", str(file), "--without-embeddings")
    assert f"2 records written to {file}" in found.output
    assert "image_embedding" not in pq.read_table(file).column_names
