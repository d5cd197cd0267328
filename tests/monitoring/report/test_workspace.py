"""Workspace: snapshots on disk, and what the server says of them over HTTP."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from datetime import UTC, datetime, timedelta

import pandas as pd
import pytest

from cxr_mm.core.errors import ParamsError
from monitoring.report.workspace import retain_snapshots, serve_workspace

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def add_snapshot():
    from monitoring.report.evidently import add_snapshot  # slow to import, in each test process

    return add_snapshot


@pytest.fixture(scope="module")
def snapshot(add_snapshot):
    from evidently import Report
    from evidently.metrics import RowCount

    return Report([RowCount()]).run(pd.DataFrame({"age": [60.0, 70.0]}), None)


@pytest.fixture
def ask():
    def get(address, data=None):
        body = None if data is None else json.dumps(data).encode()
        request = urllib.request.Request(address, body, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.loads(answer.read())

    return get


@pytest.fixture
def served(tmp_path, free_port):
    """`with served(workspace)`: the address of a server of its own process."""
    code = "import sys; from pathlib import Path; from monitoring.report import workspace as w; "
    code += "w.serve_workspace(Path(sys.argv[1]), port=int(sys.argv[2]))"
    started = []

    def start(workspace):
        words = [sys.executable, "-W", "ignore", "-c", code, str(workspace), str(free_port)]
        result = (tmp_path / "said").open("wb")
        started.append(subprocess.Popen(words, stdout=result, stderr=result))
        result.close()
        address, end = f"http://127.0.0.1:{free_port}", time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
                return address
            except OSError:
                assert started[-1].poll() is None, (tmp_path / "said").read_text()
                assert time.monotonic() < end
                time.sleep(0.2)

    yield start
    for process in started:
        os.kill(process.pid, signal.SIGTERM)
        process.wait(30)


def test_the_dashboards_of_each_task_are_served_on_the_loopback(
    tmp_path, snapshot, add_snapshot, served, ask
):
    workspace = tmp_path / "workspace"
    for day in range(3):
        figures = {"verdict": float(day), "volume": 100.0 + day, "auc": float("nan")}
        add_snapshot(workspace, "icu", snapshot, NOON + timedelta(days=day), figures)
    add_snapshot(workspace, "covid", None, NOON, {"verdict": -1.0, "volume": 3.0})
    address = served(workspace)
    projects = {p["name"]: p["id"] for p in ask(f"{address}/api/projects")}
    assert set(projects) == {"icu", "covid"}
    metric = {
        "tags": [],
        "metadata": {},
        "metric": "evidently:metric_v2:MeanValue",
        "metric_labels": {"column": "verdict"},
    }
    series = f"{address}/api/v2/snapshots/{projects['icu']}/data_series_batch"
    result = ask(series, {"series_filter": [metric]})
    assert [s["values"] for s in result["series"]] == [[0.0, 1.0, 2.0]]
    assert [s["timestamp"][:13] for s in result["sources"]] == [
        f"2026-03-0{d}T12" for d in (1, 2, 3)
    ]
    # What is added while the server runs is soon on the page.
    add_snapshot(workspace, "icu", snapshot, NOON + timedelta(days=3), {"verdict": 1.0})
    end = time.monotonic() + 20
    while result["series"][0]["values"] != [0.0, 1.0, 2.0, 1.0]:
        assert time.monotonic() < end
        time.sleep(0.1)
        result = ask(series, {"series_filter": [metric]})


def test_a_window_that_is_reported_again_replaces_its_snapshots(tmp_path, snapshot, add_snapshot):
    for verdict in (2.0, 0.0):
        add_snapshot(tmp_path, "icu", snapshot, NOON, {"verdict": verdict})
    stored = [json.loads(p.read_text()) for p in tmp_path.glob("*/snapshots/*.json")]
    assert sorted(k["name"] for k in stored) == ["figures", "report"]
    assert {k["timestamp"] for k in stored} == {"2026-03-01T12:00:00"}
    assert len(list(tmp_path.glob("*/metadata.json"))) == 1


def test_reports_of_old_windows_go_and_their_figures_stay(tmp_path, snapshot, add_snapshot):
    now = datetime.now(UTC)
    for age in (1, 50, 60):
        add_snapshot(tmp_path, "icu", snapshot, now - timedelta(days=age), {"verdict": 0.0})
    assert retain_snapshots(tmp_path, "icu", keep_days=30, keep_last=2) == 1
    assert retain_snapshots(tmp_path, "icu", keep_days=30, keep_last=1) == 1
    assert retain_snapshots(tmp_path, "icu", keep_days=30, keep_last=1) == 0
    assert retain_snapshots(tmp_path, "covid", keep_days=30, keep_last=1) == 0
    assert retain_snapshots(tmp_path / "nowhere", "icu", keep_days=30, keep_last=1) == 0
    names = [json.loads(p.read_text())["name"] for p in tmp_path.glob("*/snapshots/*.json")]
    assert sorted(names) == ["figures"] * 3 + ["report"]


def test_another_host_and_a_workspace_that_is_not_there_are_refused(tmp_path):
    with pytest.raises(ParamsError, match="this machine alone"):
        serve_workspace(tmp_path, host="0.0.0.0")
    with pytest.raises(ParamsError, match="no such workspace"):
        serve_workspace(tmp_path / "nowhere")
