"""A log with the tables of the schedule, and reports that take no models."""

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
orders = root / "orders.py"
status, aggregates = "ok", {}
if orders.exists():
    exec(orders.read_text())
folder.mkdir(parents=True, exist_ok=True)
verdict = {"status": status, "task": "icu", "digest": "a" * 64, "n": 60, "n_labelled": 0,
           "first": None, "last": None, "headline": "60 studies", "reasons": [], "notes": [],
           "aggregates": aggregates}
(folder / "verdict.json").write_text(json.dumps(verdict))
sys.exit({"ok": 0, "too_small": 3, "warn": 10, "alarm": 20}[status])
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
