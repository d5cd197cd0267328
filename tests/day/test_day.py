"""A day in the life: inputs change while the app serves, and a better model takes over."""

import hashlib
import hmac
import json
import time

import httpx
import pytest
from typer.testing import CliRunner

from app.model_watcher import PAUSE
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import MONITORING_REPORTS
from cxr_mm.core.verdict import STATUS_NUMBERS, VERDICT_FILE
from cxr_mm.data.synthetic.population import FINDINGS, SynthesisSpec
from cxr_mm.models.registry import read_pointer, resolved
from monitoring import cli
from monitoring.reference import load_reference
from monitoring.retraining.comparison import Margins
from monitoring.retraining.promotion import promote
from monitoring.retraining.retrain import RetrainRequest, retrain
from monitoring.scheduler.runner import WORKSPACE_NAME
from monitoring.scheduler.state import open_state
from monitoring.scheduler.status import status

pytestmark = [
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore:'_UnionGenericAlias'"),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting'"),
]
QUIET = SynthesisSpec(studies=28, seed=101, label_missing=0)
CHANGED = SynthesisSpec(
    studies=115, seed=208, label_missing=0, crp_unit="mg/dL", exposure=1.7, concept=1.0
)
MOVED = {"clinical.crp", "quality.exposure"}
WIDE = Margins(auc=0.49, subgroup_auc=0.49, brier=0.49, ece=0.49)
"""So few studies prove little."""


@pytest.fixture(scope="module")
def quiet(day):
    """Two hours without any change."""
    folder, table = day.collected("quiet", QUIET)
    return [day.hour(folder, part, labels=10) for part in (table[:14], table[14:])]


@pytest.fixture(scope="module")
def changed(day, quiet):
    """Folder and table of the studies after the change."""
    return day.collected("changed", CHANGED)


@pytest.fixture(scope="module")
def alarming(day, changed):
    """Two hours after it."""
    folder, table = changed
    return [day.hour(folder, part, labels=43) for part in (table[:45], table[45:90])]


@pytest.fixture(scope="module")
def record(day, changed, alarming):
    """The challenger, judged."""
    window = {"since": alarming[0].start, "verdict": alarming[-1].report / VERDICT_FILE}
    options = {"share": 0.75, "margins": WIDE, "project": day.project}
    request = RetrainRequest(day.pointer, day.log, changed[0], **window, **options)
    return retrain(request)


@pytest.fixture(scope="module")
def after(day, changed, record):
    """The hour after the challenger was promoted."""
    promote(record.id, "B. Chief", day.project)
    time.sleep(PAUSE)
    folder, table = changed
    return day.hour(folder, table[90:105], labels=10)


def test_quiet_hours_are_ok_and_no_one_is_alerted(quiet):
    for hour in quiet:
        verdict = hour.verdict
        assert (verdict.status, verdict.n, verdict.n_labelled) == ("ok", 14, 10)
        assert hour.digests == {verdict.digest}
        assert hour.alerts == []


def test_the_alarm_is_sent_once_signed_and_names_what_moved(alarming, key):
    first, second = alarming
    ((headers, body),) = first.alerts
    signed = f"{headers['X-CXR-MM-Timestamp']}.".encode() + body
    expected = hmac.new(key.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-CXR-MM-Signature"] == f"sha256={expected}"
    notice = json.loads(body)
    assert (notice["status"], notice["n"], notice["n_labelled"]) == ("alarm", 45, 43)
    assert {reason["name"] for reason in notice["reasons"]} == MOVED
    assert second.verdict.status == "alarm"
    assert {reason.name for reason in second.verdict.reasons} == MOVED
    assert second.alerts == []


def test_the_champion_does_worse_since_the_change(record, alarming):
    assert record.champion.digest == alarming[-1].verdict.digest
    aucs = {
        (line["sample"], line["finding"]): line["champion"]["value"]
        for line in record.comparisons
        if line["group"] == "all" and line["metric"] == "auc"
    }
    for finding in FINDINGS:
        assert aucs["newest", finding] < aucs["frozen test", finding]


def test_the_challenger_learns_what_came_since_and_passes_the_gate(record):
    data, studies = record.change["data"], record.protocol["studies"]
    older = studies["handed in, labelled and older"]
    assert data["challenger"]["studies"] == data["champion"]["studies"] + older
    assert older + studies["handed in, labelled and newest"] == 86
    assert studies["left out: no label"] == 4
    assert record.outcome in ("better", "non-inferior", "worse by less than the margin")


def test_the_app_that_runs_answers_with_the_challenger_once_it_is_approved(day, record, after):
    assert record.challenger.digest != record.champion.digest
    assert after.digests == {record.challenger.digest}
    (model,) = httpx.get(f"{day.client.src}healthz").json()["models"]
    assert model["digest"] == record.challenger.digest
    assert "trouble" not in model
    assert read_pointer(day.pointer).record == record.id


def test_the_new_model_is_watched_against_the_newest_studies_and_all_is_calm(day, record, after):
    verdict = after.verdict
    assert (verdict.digest, verdict.n, verdict.n_labelled) == (record.challenger.digest, 15, 10)
    reference = load_reference(resolved(day.pointer).parent / "reference")
    newest = record.protocol["studies"]["newest, compared"]
    assert reference.digest == verdict.digest
    assert record.protocol["reference"] == f"the {len(reference.table)} newest studies"
    assert len(reference.table) >= newest
    assert verdict.status == "ok", verdict.reasons


def test_the_change_record_names_both_models_why_and_who_approved(day, record, alarming, after):
    changes = day.pointer.parent / "changes"
    page = (changes / f"{record.id}.md").read_text()
    assert record.champion.digest in page
    assert record.challenger.digest in page
    assert "Monitoring reported alarm" in page
    for reason in alarming[-1].verdict.reasons:
        assert reason.title in page
    approved = read_json(changes / f"{record.id}.1.json")
    assert (approved["by"], approved["after"]) == ("B. Chief", record.challenger.digest)


def test_the_dashboards_hold_every_hour(day, quiet, alarming, after):
    from monitoring.report.evidently import Workspace  # slow to import, in each test process

    workspace = Workspace(str(day.project / MONITORING_REPORTS / WORKSPACE_NAME))
    (project,) = workspace.list_projects()
    runs = [workspace.get_run(project.id, run) for run in workspace.list_runs(project.id)]
    hours = [*quiet, *alarming, after]
    ends = [hour.end.replace(tzinfo=None) for hour in hours]
    assert sorted(run.timestamp for run in runs if run.name == "report") == ends
    drawn = [
        (run.timestamp, found.value)
        for run in runs
        for found in run.metric_results.values()
        if run.name == "figures" and found.display_name == "Mean value of 'verdict'"
    ]
    result = [STATUS_NUMBERS[hour.verdict.status] for hour in hours]
    assert sorted(drawn) == list(zip(ends, result, strict=True))


def test_the_log_is_whole_and_status_names_the_newest_hour(day, after):
    result = CliRunner().invoke(cli.app, ["verify", "--log", day.log])
    assert result.exit_code == 0
    assert "predictions: 133 rows hold" in result.output
    state = open_state(day.log)
    task = status(state, day.log, day.clock.now)["tasks"]["synthetic"]
    state.close()
    assert (task["counts"]["done"], task["counts"]["failed"], task["overdue"]) == (5, 0, 0)
    assert task["latest"]["until"] == after.end.isoformat()
    assert task["latest"]["digest"] == after.verdict.digest
