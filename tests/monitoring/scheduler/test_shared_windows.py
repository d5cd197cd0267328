"""Several runners share the windows of one task, and what comes of them is as of one runner."""

import threading
import time
from itertools import cycle, islice

import pytest

from monitoring.config import MonitorParams, ReportSettings
from monitoring.report.turn import Turn
from monitoring.scheduler.cron import Cron, Window
from monitoring.scheduler.runner import Runner, ServedModel
from monitoring.scheduler.sandbox import report_sandboxed
from monitoring.scheduler.state import open_state
from monitoring.scheduler.windows import Windows

EITHER = pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)
DAILY, DIGEST = Cron("0 6 * * *"), "a" * 64
SWITCHES = """
def status(before):
    return "ok" if before and before["status"] == "alarm" else "alarm"
runner, day = str(__import__("os").getppid()), option("--until")[8:10]
"""
"""Each verdict is the opposite of that of the window before."""


def statuses(rows):
    return [row.verdict["status"] for row in rows()]


def alternating(count):
    return list(islice(cycle(["alarm", "ok"]), count))


@EITHER
def test_two_backfills_share_windows_and_decide_in_order(process, fake, rows, tmp_path):
    fake.order(  # the pages of each window are drawn until the next one has decided
        SWITCHES
        + """
(root / runner).touch()
while len([path for path in root.iterdir() if path.name.isdigit()]) < 2: time.sleep(0.02)
def draw():
    (root / f"decided {day}").touch()
    if day < "08":
        while not list(root.glob(f"decided {int(day) + 1:02}")): time.sleep(0.02)
"""
    )
    both = [process("backfill") for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    found = rows()
    assert [(r.status, r.attempts) for r in found] == [("done", 1)] * 7
    assert len(fake.runs) == len(set(fake.runs)) == 7
    assert statuses(rows) == alternating(7)
    assert {int(r.holder.split(":")[1]) for r in found} == {each.pid for each in both}


@EITHER
@pytest.mark.parametrize("moment", ["before it decides", "while it draws"])
def test_what_a_killed_backfill_was_at_is_taken_over(process, fake, rows, until, tmp_path, moment):
    fake.order(
        SWITCHES
        + f"""
def hang():
    (root / "new").write_text(runner)
    (root / "new").rename(root / "killed")
    time.sleep(60)
if day == "04" and not (root / "killed").exists():
    if {moment!r} == "while it draws":
        draw = hang
    else:
        hang()
"""
    )
    both = {each.pid: each for each in (process("backfill") for _ in range(2))}
    until((tmp_path / "killed").exists)
    killed = both.pop(int((tmp_path / "killed").read_text()))
    (other,) = both.values()
    if moment == "before it decides":
        until(lambda: any("2026-03-05" in run.split()[1] for run in fake.runs))
    killed.kill()
    assert other.wait(120) == 0
    assert [(r.status, r.attempts) for r in rows()] == [
        ("done", 2 if r.until.day == 4 else 1) for r in rows()
    ]
    assert statuses(rows) == alternating(7)


@EITHER
def test_two_schedules_send_each_alert_once_and_in_order(
    log, state, fake, rows, at, tmp_path, monkeypatch
):
    sent, second = [], open_state(log)

    def post(notice, settings):
        del settings
        sent.append(notice.until.day)
        threading.Event().wait(0.3)  # so that the other has something to send as well

    monkeypatch.setattr("monitoring.alerts.deliver.post", post)
    hook = {"url": "https://example.org", "secret_variable": "KEY"}
    settings = MonitorParams.model_validate({"alerts": {"webhook": hook}})
    model = ServedModel(DIGEST, fake.command)
    runners = [
        Runner(each, "icu", lambda: model, tmp_path / "reports", settings, print)
        for each in (state, second)
    ]
    fake.order(  # a report that fails at once, while that of the window before is slow
        SWITCHES
        + """
if day == "02": time.sleep(0.5)
if day == "03": sys.exit("broken")
"""
    )
    runners[0].catch_up(DAILY, at("2026-03-01 07:00"))
    results = []
    threads = [
        threading.Thread(
            target=lambda each=each: results.append(each.catch_up(DAILY, at("2026-03-07 07:00")))
        )
        for each in runners
    ]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    second.close()
    assert sorted(code for each in results for code in each.exit_codes) == [0, 0, 0, 2, 20, 20]
    assert sent == [1, 2, 3, 4, 5, 6, 7]
    assert [row.status for row in rows()] == ["done", "done", "failed", *["done"] * 4]


def test_a_schedule_alerts_no_one_of_the_windows_of_a_backfill(
    state, fake, rows, at, tmp_path, monkeypatch
):
    sent = []
    monkeypatch.setattr(
        "monitoring.alerts.deliver.post", lambda notice, settings: sent.append(notice.until.day)
    )
    hook = {"url": "https://example.org", "secret_variable": "KEY"}
    settings = MonitorParams.model_validate({"alerts": {"webhook": hook}})
    past = [Window(at(f"2026-03-0{day} 06:00"), at(f"2026-03-0{day + 1} 06:00")) for day in (1, 2)]
    Windows(state, "icu").add(DIGEST, past, alerting=False)
    fake.order(SWITCHES)
    runner = Runner(
        state, "icu", lambda: ServedModel(DIGEST, fake.command), tmp_path, settings, print
    )
    runner.catch_up(DAILY, at("2026-03-04 07:00"))
    assert statuses(rows) == alternating(3)
    assert sent == [4]


def test_the_time_that_a_report_waits_for_its_turn_does_not_count(fake, at, tmp_path):
    (tmp_path / "turn").mkdir()
    turn, begun = Turn(tmp_path / "turn"), time.monotonic()
    seconds = 2.0
    settings = ReportSettings(minutes=seconds / 60)

    def step():
        if not turn.given and time.monotonic() > begun + 1.5 * seconds:
            turn.give(None)
        return turn.given

    window = Window(at("2026-03-01 06:00"), at("2026-03-02 06:00"))
    folder = tmp_path / "report"
    assert report_sandboxed(fake.command, window, folder, settings, turn, step).status == "ok"
    assert time.monotonic() > begun + 1.5 * seconds


@EITHER
def test_a_window_without_studies_does_not_end_what_an_alarm_holds(state, fake, rows, at, tmp_path):
    fake.order(
        SWITCHES
        + """
if day == "03": last = None
"""
    )
    model = ServedModel(DIGEST, fake.command)
    runner = Runner(state, "icu", lambda: model, tmp_path / "reports", MonitorParams(), print)
    runner.backfill(DAILY.whole_windows(at("2026-03-01 00:00"), at("2026-03-05 00:00")))
    # Both that of the 3rd and that of the 4th follow the alarm of the 2nd.
    assert statuses(rows) == ["alarm", "ok", "ok"]
