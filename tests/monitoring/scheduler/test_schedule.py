"""Schedule: processes that are started, stopped and killed."""

import signal
import time
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

EITHER = pytest.mark.parametrize("log", ["sqlite", "postgresql"], indirect=True)


@EITHER
def test_four_processes_at_once_run_a_window_once(process, fake, rows):
    all_of_them = [process("once") for _ in range(4)]
    assert [each.wait(120) for each in all_of_them] == [0] * 4
    assert len(fake.runs) == 1
    assert [(r.status, r.attempts) for r in rows()] == [("done", 1)]


@EITHER
def test_a_killed_schedule_takes_its_report_along_and_the_next_one_makes_it(
    process, fake, rows, until, tmp_path
):
    fake.order("(root / 'pid').write_text(str(__import__('os').getpid())); time.sleep(60)")
    first = process("schedule")
    until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
    first.kill()
    first.wait()
    until(lambda: gone(int((tmp_path / "pid").read_text())))
    assert [(r.status, r.attempts) for r in rows()] == [("running", 1)]
    fake.order("status = 'warn'")
    second = process("schedule")
    until(lambda: rows()[0].status == "done")
    second.send_signal(signal.SIGTERM)
    assert second.wait(30) == 0
    (row,) = rows()
    assert (row.attempts, row.verdict["status"]) == (2, "warn")


@EITHER
def test_two_schedules_share_the_tasks_and_none_is_run_twice(process, fake, rows):
    tasks = ("covid", "effusion", "icu", "tb")
    fake.order(  # the first report of each schedule waits for that of the other
        """
        runners = root / "runners"
        runners.mkdir(exist_ok=True)
        (runners / str(__import__("os").getppid())).touch()
        while len(list(runners.iterdir())) < 2: time.sleep(0.05)
        """
    )
    both = [process("once", "0 6 * * *", *tasks) for _ in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    found = rows()
    assert sorted(r.task for r in found) == list(tasks)
    assert {(r.status, r.attempts) for r in found} == {("done", 1)}
    assert len(fake.runs) == len(tasks)
    assert {int(r.holder.split(":")[1]) for r in found} == {each.pid for each in both}


def test_of_two_schedules_one_runs_each_window(process, fake, rows, until):
    fake.order("time.sleep(0.3)")
    both = [process("schedule", "each second") for _ in range(2)]
    until(lambda: len(rows()) >= 5)
    for each in both:
        each.send_signal(signal.SIGTERM)
        assert each.wait(30) == 0
    assert len(fake.runs) == len(set(fake.runs))
    assert all((r.status, r.attempts) in (("done", 1), ("waiting", 0)) for r in rows())


def test_sigterm_lets_the_report_at_hand_finish(process, fake, rows, until):
    fake.order("time.sleep(3)")
    schedule = process("schedule")
    until(lambda: fake.runs)
    schedule.send_signal(signal.SIGTERM)
    assert schedule.wait(30) == 0
    assert [r.status for r in rows()] == ["done"]


def test_a_schedule_with_nothing_to_do_ends_at_once(process, until, rows):
    schedule = process("schedule")
    until(lambda: rows() and rows()[0].status == "done")
    began = time.monotonic()
    schedule.send_signal(signal.SIGTERM)
    assert schedule.wait(30) == 0
    assert time.monotonic() - began < 10


def test_a_schedule_fires_when_a_window_ends(process, fake, until):
    process("schedule", "each second")
    until(lambda: len(fake.runs) >= 4)
    bounds = [run.split() for run in fake.runs]
    assert all(one[1] == other[0] for one, other in pairwise(bounds))


def gone(pid):
    with suppress(FileNotFoundError):
        return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
    return True
