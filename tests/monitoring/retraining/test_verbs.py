"""The verbs: what they print, and how they end."""

import shutil

import pytest
from typer.testing import CliRunner

from app.monitoring_reports import Evaluation, evaluation
from cxr_mm.core.errors import ParamsError, StageError
from cxr_mm.core.files import write_json
from cxr_mm.models.registry import read_pointer
from monitoring.cli import retraining
from monitoring.retraining.comparison import Margins
from monitoring.retraining.experiment import _exclusive, reproduce
from monitoring.retraining.promotion import pointer_file, promote


@pytest.fixture
def run(project, monkeypatch):
    """Runs a verb in the project's folder."""
    monkeypatch.chdir(project)

    def ran(*words):
        return CliRunner().invoke(retraining.commands, words)

    return ran


def test_adopt_promote_and_rollback_print_what_serves(run, project, make_record):
    result = run("adopt", "--bundle", "models/synthetic/bundle", "--by", "A. Reader")
    record = make_record(project)
    assert result.exit_code == 0
    assert f"synthetic: {record.champion.digest[:12]} serves" in result.output
    result = run("promote", "--record", record.id, "--by", "B. Chief")
    assert f"synthetic: {record.challenger.digest[:12]} serves" in result.output
    result = run("rollback", "--task", "synthetic", "--by", "C. Night")
    assert f"synthetic: {record.champion.digest[:12]} serves" in result.output
    assert read_pointer(pointer_file("synthetic", project)).by == "C. Night"


@pytest.mark.parametrize(
    "words",
    [
        ("adopt", "--bundle", "models/synthetic/bundle"),
        ("promote", "--record", "one"),
        ("rollback", "--task", "synthetic"),
    ],
)
def test_a_name_is_required(run, project, words):
    result = run(*words)
    assert result.exit_code == 2
    assert "--by" in result.output
    assert not pointer_file("synthetic", project).exists()


def test_auto_without_a_name_is_refused_before_anything_is_done(run, project):
    shutil.rmtree(project / "models")
    result = run("retrain", "--bundle", "x", "--log", "y", "--studies", "z", "--auto")
    assert isinstance(result.exception, ParamsError)


@pytest.mark.parametrize(
    ("outcome", "code", "serves"),
    [("better", 0, "challenger"), ("non-inferior", 0, "champion"), ("rejected", 30, "champion")],
)
def test_auto_promotes_only_what_is_better(
    run, project, make_record, monkeypatch, outcome, code, serves
):
    run("adopt", "--bundle", "models/synthetic/bundle", "--by", "A. Reader")
    record = make_record(project, outcome=outcome)
    # What a retraining gives is tested where one is run; here its record is at hand.
    monkeypatch.setattr("monitoring.retraining.retrain.retrain", lambda retrain_request: record)
    words = ["--bundle", "x", "--log", "y", "--studies", "z", "--auto", "--by", "B. Chief"]
    result = run("retrain", *words)
    assert result.exit_code == code
    assert f"{outcome}: {record.id}" in result.output
    digest = read_pointer(pointer_file("synthetic", project)).digest
    assert digest == getattr(record, serves).digest


def test_each_margin_is_an_option_with_the_default_of_the_gate(
    run, project, make_record, monkeypatch
):
    requests, record = [], make_record(project)

    def retrain(retrain_request):
        requests.append(retrain_request)
        return record

    monkeypatch.setattr("monitoring.retraining.retrain.retrain", retrain)
    words = ("retrain", "--bundle", "x", "--log", "y", "--studies", "z")
    given = ("--margin", "0.1", "--margin-subgroup", "0.11", "--margin-brier", "0.12")
    for more in ((), (*given, "--margin-ece", "0.13")):
        assert run(*words, *more).exit_code == 0
    plain, changed = (retrain_request.margins for retrain_request in requests)
    assert plain == Margins()
    assert changed == Margins(auc=0.1, subgroup_auc=0.11, brier=0.12, ece=0.13)


def test_one_experiment_is_run_by_one_process_at_a_time(tmp_path):
    with _exclusive(tmp_path), pytest.raises(StageError, match="another process"):
        reproduce(tmp_path, "synthetic", tmp_path)


def test_the_page_has_the_card_of_a_version_that_was_promoted(project, make_record):
    record = make_record(project)
    reports = project / record.experiment / "reports/synthetic"
    write_json(
        reports / "metrics.json", {"of": "the challenger", "digest": record.challenger.digest}
    )
    promote(record.id, "B. Chief", project)
    found = evaluation("synthetic", record.challenger.digest, project)
    assert isinstance(found, Evaluation)
    assert found.metrics["of"] == "the challenger"
