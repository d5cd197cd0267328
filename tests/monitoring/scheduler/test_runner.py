"""Runner: what is run, in which order, how often, and what is remembered of it."""

import json
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import text, update

from cxr_mm.core.errors import BundleError, LogError
from cxr_mm.prediction_log.database import is_refused
from cxr_mm.prediction_log.spool import spool_folder
from monitoring.config import AlertSettings, MonitorParams
from monitoring.scheduler.cron import Cron, Window
from monitoring.scheduler.runner import Runner, ServedModel, run_all
from monitoring.scheduler.state import AGGREGATED, WINDOWS, open_state
from monitoring.scheduler.status import status, status_text
from monitoring.scheduler.windows import PendingWindow, Windows, read_aggregates

DAILY = Cron("0 6 * * *")
DIGEST = "a" * 64
EITHER = pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)
SETTINGS = MonitorParams.model_validate(
    {
        "schedule": {"catch_up": 3, "lease_seconds": 1.5},
        "report": {"memory_mib": 512, "minutes": 0.5},
    }
)
AGGREGATES = {
    site: {
        "status": "ok",
        "studies": studies,
        "labelled": 0,
        "predictions": studies,
        "refused": 1,
        "bad_input": 0,
        "failures": 0,
        "slowest": None,
        "auc": None,
        "sums": {"Age": [False, 2, 10, 60, 400, 2, 60, 10, 2]},
    }
    for site, studies in (("north", 60), ("süd", 61))
}


@pytest.fixture
def runner(state, fake, tmp_path):
    """`runner(**settings)`; what it says is in `runner.lines`."""

    def make(stopped=lambda: False, ending=lambda: False, digest=DIGEST, **settings):
        return Runner(
            state,
            "icu",
            lambda: ServedModel(digest, fake.command),
            tmp_path / "reports",
            SETTINGS.model_copy(update=settings),
            make.lines.append,
            stopped,
            ending,
        )

    make.lines = []
    return make


@pytest.fixture
def held(state, tmp_path):
    """`held(window)`: another runner's lease of a window, as if it were at its report."""

    def take(window):
        windows, now = Windows(state, "icu", 1.5), datetime.now(UTC)
        windows.add(DIGEST, [window], alerting=True)
        (pending,) = (p for p in windows.pending(DIGEST, now) if p.window == window)
        return windows.claim(pending, now, str(tmp_path / f"{window.until:%d}"))

    return take


@EITHER
def test_the_first_pass_runs_the_newest_window_and_the_next_what_came_since(
    runner, fake, rows, at, tmp_path
):
    first = runner().catch_up(DAILY, at("2026-03-01 07:00"))
    assert (first.exit_code, first.again) == (0, False)
    assert fake.runs == ["2026-02-28T06:00:00+00:00 2026-03-01T06:00:00+00:00"]
    assert runner().catch_up(DAILY, at("2026-03-02 05:59")).exit_codes == ()
    assert runner().catch_up(DAILY, at("2026-03-02 06:00")).exit_codes == (0,)
    done = rows()
    assert [r.status for r in done] == ["done", "done"]
    assert done[1].verdict["headline"] == "60 studies"
    assert done[1].folder == str(tmp_path / "reports" / "20260302T060000Z")


def test_missed_windows_are_made_up_for_oldest_first_and_what_is_left_out_is_said(runner, fake, at):
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    runner().catch_up(DAILY, at("2026-03-08 07:00"))
    assert [run[:10] for run in fake.runs] == [
        "2026-02-28",
        "2026-03-05",
        "2026-03-06",
        "2026-03-07",
    ]
    left = "4 missed windows left out, from 2026-03-01 06:00 to 2026-03-05 06:00 UTC"
    assert any(left in line for line in runner.lines)


def test_the_most_severe_verdict_is_the_exit_code(runner, fake, at):
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    fake.order("status = 'alarm' if '2026-03-03T06' in option('--until') else 'warn'")
    found = runner().catch_up(DAILY, at("2026-03-04 07:00"))
    assert found.exit_codes == (10, 20, 10)
    assert found.exit_code == 20


@EITHER
def test_a_report_that_fails_is_tried_twice_more_and_stops_nothing(runner, fake, rows, at):
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    fake.order("if '2026-03-02' in option('--until'): sys.exit('no image was found')")
    now = at("2026-03-03 07:00")
    first = runner().catch_up(DAILY, now)
    assert (first.exit_codes, first.exit_code, first.again) == ((2, 0), 2, True)
    assert runner().catch_up(DAILY, now).again
    assert not runner().catch_up(DAILY, now).again
    assert runner().catch_up(DAILY, now).exit_codes == ()
    failed = rows()[1]
    assert (failed.status, failed.attempts) == ("failed", 3)
    assert "exit code 1: no image was found" in failed.message


def test_a_report_above_its_memory_or_time_or_without_a_verdict_has_failed(runner, fake, rows, at):
    fake.order("hoard = bytearray(1 << 30)")
    assert runner().catch_up(DAILY, at("2026-03-01 07:00")).exit_codes == (2,)
    assert "more than 512 MiB of memory" in rows()[0].message
    fake.order("time.sleep(60)")
    quick = SETTINGS.report.model_copy(update={"minutes": 0.01})
    began = time.monotonic()
    runner(report=quick).catch_up(DAILY, at("2026-03-01 07:00"))
    assert time.monotonic() - began < 30
    assert "more than 0.01 minutes" in rows()[0].message
    fake.order("sys.exit(0)")
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    assert "left no verdict" in rows()[0].message


def test_a_new_model_has_windows_of_its_own(runner, fake, rows, at):
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    runner(digest="b" * 64).catch_up(DAILY, at("2026-03-01 08:00"))
    first, second = rows()
    assert (first.digest[0], second.digest[0]) == ("a", "b")
    assert first.folder != second.folder


def test_a_model_that_cannot_be_read_stops_no_other(runner, fake, at):
    def broken():
        raise BundleError("damaged", field="bundle")

    bad, good, now = runner(), runner(), at("2026-03-01 07:00")
    bad._model = broken
    found = run_all([bad, good], lambda each: each.catch_up(DAILY, now), runner.lines.append)
    assert (found.exit_codes, found.again) == ((2, 0), True)
    assert any("damaged" in line for line in runner.lines)
    assert len(fake.runs) == 1


def test_the_aggregates_of_a_window_are_stored_with_its_verdict(runner, fake, state, at, rows):
    fake.order(f"aggregates = {AGGREGATES!r}")
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    runner().catch_up(DAILY, at("2026-03-02 07:00"))
    found = list(read_aggregates(state, "icu", at("2026-02-01 00:00"), at("2026-03-02 06:00")))
    assert [(one.site, one.content.studies) for one in found] == 2 * [("north", 60), ("süd", 61)]
    assert found[0].content.sums["Age"].mean == 5.0
    assert found[-1].window.until == at("2026-03-02 06:00")
    assert not list(read_aggregates(state, "icu", at("2026-03-02 06:00"), at("2026-04-01 00:00")))
    with state.engine.begin() as connection:
        earlier = {**AGGREGATES["north"], "sums": {"Age": [False, 2, 10, 60, 2, 60, 10, 2]}}
        connection.execute(update(AGGREGATED).values(content=earlier))
    with pytest.raises(LogError, match=r"window until .* another version.*--since"):
        list(read_aggregates(state, "icu", at("2026-02-01 00:00"), at("2026-03-02 06:00")))
    fake.order("aggregates = {'north': {'studies': 'many'}}")
    assert runner().catch_up(DAILY, at("2026-03-03 07:00")).exit_codes == (2,)
    assert "damaged" in rows()[-1].message


def test_backfill_runs_the_windows_between_two_moments_once(runner, fake, rows, at):
    windows = list(DAILY.whole_windows(at("2026-01-01 00:00"), at("2026-01-04 00:00")))
    assert len(windows) == 2
    assert runner().backfill(windows).exit_codes == (0, 0)
    assert runner().backfill(windows).exit_codes == ()
    assert len(fake.runs) == 2


def test_a_runner_that_is_asked_to_end_kills_its_report_and_leaves_the_window(
    runner, fake, rows, at
):
    fake.order("time.sleep(60)")
    begun = time.monotonic()
    message = lambda: time.monotonic() > begun + 1.5  # noqa: E731
    assert runner(message, message).catch_up(DAILY, at("2026-03-01 07:00")).exit_codes == ()
    assert time.monotonic() - begun < 20
    assert [(r.status, r.attempts) for r in rows()] == [("waiting", 0)]


def test_a_window_that_another_is_at_is_left_to_it(runner, held, state, rows, fake, at):
    window = Window(at("2026-02-28 06:00"), at("2026-03-01 06:00"))
    lease = held(window)
    found = runner().catch_up(DAILY, at("2026-03-01 07:00"))
    assert found.held_by.startswith(lease.holder)
    assert (found.exit_codes, found.again) == ((), True)
    assert status(state, str(state.url))["tasks"]["icu"]["at_work"] == [lease.holder]
    assert f"at work: {lease.holder}" in status_text(status(state, str(state.url)))
    lease.release()
    assert runner().catch_up(DAILY, at("2026-03-01 07:00")).held_by is None
    assert len(fake.runs) == 1
    assert rows()[0].attempts == 2


def test_a_window_that_another_has_just_given_back_is_waited_for(runner, held, state, at):
    window = Window(at("2026-02-28 06:00"), at("2026-03-01 06:00"))
    lease = held(window)
    with state.engine.begin() as connection:
        connection.execute(update(WINDOWS).values(status="waiting"))
    assert runner().backfill([window]).held_by.startswith(lease.holder)
    lease.release()
    assert runner().backfill([window]).exit_codes == (0,)


@EITHER
def test_a_lease_that_is_kept_lasts_and_one_that_is_not_ends(state):
    windows = Windows(state, "icu", 1.0)
    windows.add(DIGEST, [], alerting=False)
    first, second, third = (windows.tidier() for _ in range(3))
    assert first.take()
    time.sleep(2)
    assert not second.take()
    assert not first.lost.is_set()
    first._ended.set()  # as if its process were killed
    first._thread.join()
    time.sleep(1.2)
    assert third.take()
    third.release()


def test_a_holder_whose_lease_was_taken_over_learns_of_it_and_changes_nothing(
    state, held, at, until, rows
):
    windows = Windows(state, "icu")
    lease = held(Window(at("2026-03-01 00:00"), at("2026-03-02 00:00")))
    with state.engine.begin() as connection:
        connection.execute(update(WINDOWS).values(holder="another"))
    until(lease.lost.is_set)
    (row,) = rows()
    pending = PendingWindow(
        row.window_id, row.digest, Window(row.since, row.until), row.folder, row.alerting
    )
    assert not windows.fail(pending, lease.holder, "too late", None)
    lease.release()
    assert (rows()[0].status, rows()[0].holder) == ("running", "another")
    assert rows()[0].expires is not None


@EITHER
def test_a_window_is_claimed_once_and_so_is_a_folder(state, at, tmp_path):
    windows, now = Windows(state, "icu"), datetime.now(UTC)
    days = [Window(at(f"2026-03-0{day} 00:00"), at(f"2026-03-0{day + 1} 00:00")) for day in (1, 2)]
    windows.add(DIGEST, days, alerting=True)
    first, second = windows.pending(DIGEST, now)
    lease = windows.claim(first, now, str(tmp_path / "report"))
    assert windows.claim(first, now, str(tmp_path / "other")) is None
    with pytest.raises(LogError) as refused:
        windows.claim(second, now, str(tmp_path / "report"))
    assert is_refused(refused.value)
    lease.release()


def test_tables_of_a_development_version_are_refused(state, log):
    with state.engine.begin() as connection:
        connection.execute(text("ALTER TABLE monitoring_windows DROP COLUMN alerting"))
    with pytest.raises(LogError, match=r"lack monitoring_windows\.alerting"):
        open_state(log)


@EITHER
def test_status_names_verdict_next_window_what_is_overdue_and_what_is_spooled(
    runner, fake, state, log, at, tmp_path, monkeypatch
):
    assert "nothing was scheduled" in status_text(status(state, log))
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    fake.order("sys.exit('broken')")
    runner().catch_up(DAILY, at("2026-03-02 07:00"))
    spool = spool_folder(log)
    monkeypatch.chdir(tmp_path)
    spool.mkdir(parents=True)
    (spool / "1.jsonl").write_bytes(b"\none\n\ntwo\n")
    facts = status(state, log, at("2026-03-04 12:00"))
    task = json.loads(json.dumps(facts))["tasks"]["icu"]
    assert task["latest"]["status"] == "ok"
    assert "broken" in task["latest_failure"]["message"]
    assert task["next_window_ends"] == "2026-03-05T06:00:00+00:00"
    assert task["overdue"] == 2
    assert (task["at_work"], facts["spooled"]) == ([], 2)
    result = status_text(facts)
    assert "icu: OK of" in result
    assert "overdue: 2 windows" in result
    assert "spool: 2 records" in result


def test_a_change_of_the_verdict_is_sent_and_trouble_with_it_loses_no_report(
    runner, fake, rows, at, tmp_path
):
    (tmp_path / "file").write_text("")
    for folder, troubles in (("prometheus", 0), ("file", 1)):
        message = AlertSettings.model_validate({"prometheus": {"folder": tmp_path / folder}})
        day = len(rows()) + 1
        runner(alerts=message).catch_up(DAILY, at(f"2026-03-0{day} 07:00"))
        assert sum("are not written" in line for line in runner.lines) == troubles
    assert "verdict" in (tmp_path / "prometheus" / "cxr_mm_icu.prom").read_text()
    assert [r.status for r in rows()] == ["done", "done"]


def test_a_window_whose_end_could_not_be_written_is_run_again(runner, held, rows, at):
    for _ in range(2):
        held(Window(at("2026-02-28 06:00"), at("2026-03-01 06:00"))).release()
    runner().catch_up(DAILY, at("2026-03-01 07:00"))
    assert [(r.status, r.attempts) for r in rows()] == [("done", 3)]


def test_a_window_whose_runner_was_killed_three_times_is_given_up(runner, held, fake, rows, at):
    for _ in range(3):
        held(Window(at("2026-02-28 06:00"), at("2026-03-01 06:00"))).release()
    assert runner().catch_up(DAILY, at("2026-03-01 07:00")).exit_codes == ()
    assert "3 times" in rows()[0].message
    assert not fake.runs
