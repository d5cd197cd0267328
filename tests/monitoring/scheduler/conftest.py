"""A log with the tables of the schedule, and reports that take no models."""

import subprocess
import sys
import textwrap
import time
from datetime import UTC, datetime

import pytest
from sqlalchemy import select

from cxr_mm.prediction_log import open_log
from monitoring.scheduler.state import WINDOWS, open_state

FAKE = """
import json, pathlib, sys, time
def option(name):
    return sys.argv[sys.argv.index(name) + 1]
root, folder = pathlib.Path(sys.argv[1]), pathlib.Path(option("--out"))
with (root / "runs.txt").open("a") as runs:
    runs.write(option("--since") + " " + option("--until") + chr(10))
orders, turn = root / "orders.py", pathlib.Path(option("--turn"))
status, aggregates, last, draw = "ok", {}, option("--until"), lambda: None
if orders.exists():
    exec(orders.read_text())
while not (turn / "before.json").exists():
    time.sleep(0.02)
before = json.loads((turn / "before.json").read_text())
if callable(status):
    status = status(before)
folder.mkdir(parents=True, exist_ok=True)
verdict = {"status": status, "task": "icu", "digest": "a" * 64, "n": 60, "n_labelled": 0,
           "first": None, "last": last, "headline": "60 studies", "reasons": [],
           "notes": []}
(turn / "new").write_text(json.dumps(verdict))
(turn / "new").rename(turn / "decided.json")
draw()
(folder / "verdict.json").write_text(json.dumps(verdict | {"aggregates": aggregates}))
sys.exit({"ok": 0, "too_small": 3, "warn": 10, "alarm": 20}[status])
"""

PROCESS = """
import sys
from pathlib import Path
from datetime import UTC, datetime
from apscheduler.triggers.cron import CronTrigger
from cxr_mm.prediction_log.spool import spool_folder
from monitoring.scheduler.cron import Cron
from monitoring.scheduler.runner import ServedModel, Runner, fill_all, run_all
from monitoring.scheduler.schedule import Stop, run_schedule
from monitoring.scheduler.state import open_state
from monitoring.config import MonitorParams
log, script, root, mode, line, *tasks = sys.argv[1:]
cron = Cron("* * * * *" if line == "each second" else line)
if line == "each second":  # which crontab cannot say
    cron.trigger = CronTrigger(second="*", timezone=UTC)
settings = MonitorParams.model_validate({"schedule": {"lease_seconds": 1.5, "retry_minutes": 0.03,
    "grace_seconds": 20}, "report": {"memory_mib": 512}})
stop = Stop(settings.schedule.grace_seconds)
state = open_state(log)
say = lambda line: print(line, flush=True)
def runner(task):
    model = ServedModel("a" * 64, (script, root, task))
    reports = Path(root) / "reports" / task
    return Runner(state, task, lambda: model, reports, settings, say, stop.now, stop.requested)
runners = [runner(task) for task in tasks or ["icu"]]
def catch_up(cron):
    return run_all(runners, lambda each: each.catch_up(cron), say)
if mode == "once":
    catch_up(cron)
elif mode == "backfill":
    day = lambda number: datetime(2026, 3, number, tzinfo=UTC)
    began, windows = datetime.now(UTC), cron.whole_windows(day(1), day(9))
    fill_all(runners, windows, began, stop.requested, say)
else:
    run_schedule(catch_up, cron, settings.schedule, stop, say)
"""


@pytest.fixture
def log(request, tmp_path, monkeypatch):
    """URL of an empty prediction log: SQLite, or what a test asks for."""
    if getattr(request, "param", "sqlite") == "sqlite":
        url = f"sqlite:///{tmp_path / 'log.db'}"
    else:
        monkeypatch.setenv("CXR_MM_LOG_SECRET", "a secret that is long enough")
        url = request.getfixturevalue("postgresql")
    open_log(url).close()
    return url


@pytest.fixture
def state(log):
    opened = open_state(log)
    yield opened
    opened.close()


@pytest.fixture
def fake(tmp_path):
    """A report of its own process that follows `orders.py` and notes each run."""

    class Fake:
        root = tmp_path
        command = (str(tmp_path / "fake.py"), str(tmp_path))

        def order(self, code):
            (tmp_path / "orders.py").write_text(textwrap.dedent(code))

        @property
        def runs(self):
            path = tmp_path / "runs.txt"
            return path.read_text().splitlines() if path.exists() else []

    (tmp_path / "fake.py").write_text(FAKE)
    return Fake()


@pytest.fixture
def at():
    """`at("2026-03-01 06:00")`, UTC."""
    return lambda text: datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.fixture
def until():
    """`until(condition)`: wait for it, and fail where it does not come."""

    def wait(condition, seconds=40):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, "it did not come true"
            time.sleep(0.05)

    return wait


@pytest.fixture
def rows(state):
    def read():
        query = select(WINDOWS).order_by(WINDOWS.c.until, WINDOWS.c.digest)
        with state.engine.connect() as connection:
            return connection.execute(query).all()

    return read


@pytest.fixture
def process(log, fake):
    """Start a runner in a process of its own."""
    started = []

    def start(mode, line="0 6 * * *", *tasks):
        words = [sys.executable, "-W", "error", "-c", PROCESS, log, *fake.command, mode, line]
        words += tasks
        started.append(subprocess.Popen(words, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for each in started:
        if each.poll() is None:
            each.kill()
        each.communicate()
