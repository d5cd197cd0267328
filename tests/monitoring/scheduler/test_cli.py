"""The verbs as they are typed, with the real report of a made-up window."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from cxr_mm.core.errors import CxrError
from cxr_mm.prediction_log import open_log
from monitoring.cli.running import commands, expected_false_alarms
from monitoring.scheduler.cron import Cron


@pytest.fixture
def run():
    """Exit code and output; an error that a user can fix is raised."""

    def command(*words):
        found = CliRunner().invoke(commands, [str(word) for word in words])
        if isinstance(found.exception, CxrError):
            raise found.exception
        return found.exit_code, found.output

    return command


@pytest.fixture
def window(log, make, at):
    """Sixty studies of one day that have drifted, in the log."""
    records, _ = make(60, 21, age=1.5, prefix="new")
    with open_log(log) as opened:
        opened.add_records(records)
    first = min(r.created_at for r in records)
    return first.replace(hour=0), first.replace(hour=0) + timedelta(days=1)


def test_windows_of_the_past_are_reported_once_and_status_says_so(
    run, log, bundle, window, tmp_path, monkeypatch
):
    since, until = window
    words = ["backfill", "--bundle", bundle, "--log", log, "--cron", "0 0 * * *"]
    words += ["--reports", tmp_path / "reports", "--from", since.isoformat()]
    words += ["--to", until.isoformat()]
    code, result = run(*words)
    assert code == 20, result
    assert "ALARM made_up: 60 studies" in result
    folder = tmp_path / "reports" / "made_up" / until.strftime("%Y%m%dT%H%M%SZ")
    assert json.loads((folder / "verdict.json").read_text())["status"] == "alarm"
    assert (tmp_path / "reports" / "workspace" / "windows.json").exists()
    assert run(*words) == (0, "")
    page = tmp_path / "dashboard.html"
    words = ["dashboard", "--log", log, "--task", "made_up", "--until", until.isoformat()]
    code, result = run(*words, "--out", page)
    assert (code, result.startswith("1 window drawn")) == (0, True)
    assert page.exists()
    code, result = run("status", "--log", log, "--json")
    latest = json.loads(result)["tasks"]["made_up"]["latest"]
    assert (latest["status"], latest["folder"]) == ("alarm", str(folder))
    assert "made_up: ALARM of" in run("status", "--log", log)[1]


def test_once_runs_what_is_due_and_ends(run, log, bundle, window, tmp_path):
    words = ["schedule", "--bundle", bundle, "--log", log, "--cron", "0 0 * * *", "--once"]
    code, result = run(*words, "--reports", tmp_path / "reports")
    # Yesterday there was nothing in the log.
    assert code in (2, 3), result
    assert json.loads(run("status", "--log", log, "--json")[1])["tasks"]["made_up"]["cron"]


def test_what_cannot_be_run_is_one_error(run, log, bundle, tmp_path):
    words = ["schedule", "--bundle", bundle, "--once"]
    with pytest.raises(CxrError, match="no such file"):
        run(*words, "--log", f"sqlite:///{tmp_path / 'none.db'}", "--cron", "0 6 * * *")
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(CxrError, match="--cron"):
        run(*words, "--log", log, "--cron", "at six")
    past = ["backfill", *words[1:3], "--from", "2026-03-01", "--to", "2026-03-02"]
    with pytest.raises(CxrError, match="no window between"):
        run(*past, "--log", log, "--cron", "0 6 * * *")
    with pytest.raises(CxrError, match="this machine alone"):
        run("ui", "--host", "0.0.0.0")


@pytest.mark.parametrize(
    ("line", "windows", "alarms"),
    [
        ("0 6 * * *", 365, 18),
        ("0 6 * * 1", 52, 3),
        ("0 6 1 * *", 12, 1),
        ("*/10 * * * *", 52560, 2628),
    ],
)
def test_the_false_alarms_of_a_year_follow_from_the_schedule(line, windows, alarms):
    now = datetime(2026, 3, 4, tzinfo=UTC)
    result = expected_false_alarms(Cron(line, "UTC"), 0.05, now)
    assert f"About {windows} windows a year: {alarms} false alarms" in result
    assert "on average over references" in result
