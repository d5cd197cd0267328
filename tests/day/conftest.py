"""A hospital for a day: an app that serves, a schedule that watches, and a clock of its own.

Reports and stages run in this process, by the commands that a process of their own would run. Those
processes have tests of their own: tests/monitoring/scheduler, tests/monitoring/retraining.
"""

import shutil
import socket
import threading
import time
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pandas as pd
import pytest
import uvicorn
from gradio_client import Client, handle_file
from typer.testing import CliRunner

from app.metrics import Metrics
from app.model_watcher import ModelWatcher
from app.server import application, build_pages, upload_folder
from app.service import InstrumentedService
from app.settings import Limits, Settings
from cxr_mm.cli import app as commands
from cxr_mm.core.paths import MONITORING_REPORTS, TaskPaths
from cxr_mm.core.verdict import EXIT_CODES, REPORT_STAMP
from cxr_mm.data.synthetic.population import CLINICAL, FINDINGS
from cxr_mm.data.synthetic.writer import synthesise
from cxr_mm.prediction_log import PredictionLog, find_secret
from monitoring import cli
from monitoring.cli.running import _runner
from monitoring.config import MonitorParams
from monitoring.retraining.promotion import adopt, pointer_file
from monitoring.scheduler.cron import Cron
from monitoring.scheduler.runner import Runner
from monitoring.scheduler.sandbox import read_verdict
from monitoring.scheduler.schedule import Stop
from monitoring.scheduler.state import open_state

START, HOUR = datetime(2026, 3, 2, 8, tzinfo=UTC), timedelta(hours=1)
HOURLY = Cron("0 * * * *")
KEY_VARIABLE = "HOOK_KEY"
STAGES = ("ingest", "split", "train-image", "embed", "fuse", "explain", "evaluate")


def run(app, *words, codes=(0,)):
    """Run a command in this process, which has to end with one of these codes."""
    found = CliRunner().invoke(app, words, catch_exceptions=False)
    assert found.exit_code in codes, found.output


def report_here(command, window, folder, settings, turn, step):
    """The report of a window, in place of `report_sandboxed`."""
    assert step(), "one runner need not wait"
    bounds = ("--since", window.since.isoformat(), "--until", window.until.isoformat())
    python_module = 2
    words = (*command[python_module:], *bounds, "--out", str(folder), "--turn", str(turn.folder))
    run(cli.app, *words, codes=EXIT_CODES.values())
    return read_verdict(folder)


def reproduce_here(folder, task, project):
    """The stages of an experiment, in place of DVC."""
    with chdir(folder):
        for stage in STAGES:
            run(commands, stage, task)
        run(cli.app, "reference", task)


class Clock:
    """The time of day, which passes when somebody says so."""

    now = START

    def __call__(self):
        return self.now


@dataclass(frozen=True)
class Hour:
    """What came of an hour.

    Args:
        start, end: its bounds.
        digests: of the models that answered.
        report: folder of its report.
        alerts: what the webhook got at its end, headers and body.
    """

    start: datetime
    end: datetime
    digests: set[str]
    report: Path
    alerts: list

    @property
    def verdict(self):
        return read_verdict(self.report)


@dataclass(frozen=True)
class Day:
    """What serves and what watches.

    Args:
        project: folder of the project.
        clock: of the log and the schedule.
        client: of the app, which is at `client.src`.
        log: URL of the prediction log.
        runner: of the reports.
        alerts: what the webhook has got so far.
    """

    project: Path
    clock: Clock
    client: Client
    log: str
    runner: Runner
    alerts: list

    @property
    def pointer(self):
        return pointer_file("synthetic", self.project)

    def collected(self, name, spec):
        """A folder with images and no labels, and the table of its studies, labels included."""
        folder = synthesise(self.project / name, spec, workers=1)
        table = pd.read_csv(folder / "manifest.csv", dtype=str, keep_default_na=False)
        table.drop(columns=list(FINDINGS)).to_csv(folder / "manifest.csv", index=False)
        return folder, table

    def hour(self, folder, studies, labels):
        """Send studies over an hour, the first so many with labels, and run what is then due."""
        start, before, digests = self.clock.now, len(self.alerts), set()
        for number, row in enumerate(studies.to_dict("records")):
            self.clock.now = start + HOUR * number / len(studies)
            result = self._predicted(folder, row)
            digests.add(result["digest"])
            if number < labels:
                self._send_labels(result, row)
        self.clock.now = end = start + HOUR
        self.runner.catch_up(HOURLY, end)
        report = self.project / MONITORING_REPORTS / "synthetic" / end.strftime(REPORT_STAMP)
        return Hour(start, end, digests, report, self.alerts[before:])

    def _predicted(self, folder, row):
        image = handle_file(str(folder / row["image_path"])) if row["image_path"] else None
        clinical = {name: row[name] for name in CLINICAL if row[name]}
        rest = {name: row[name] for name in ("note", "view", "study_id")}
        return self.client.predict(image=image, clinical=clinical, **rest, api_name="/predict")

    def _send_labels(self, prediction, row):
        of_model = {one["finding"]: str(int(one["positive"])) for one in prediction["findings"]}
        found = {name: row[name] for name in FINDINGS}
        verdict = "agree" if found == of_model else "disagree"
        labels = {name: "present" if label == "1" else "absent" for name, label in found.items()}
        words = {"verdict": verdict, "labels": labels, "comment": ""}
        self.client.predict(prediction=prediction, **words, api_name="/feedback")


@pytest.fixture(scope="module")
def project(folds_project, tmp_path_factory):
    """A project whose model serves."""
    root = tmp_path_factory.mktemp("day") / "project"
    shutil.copytree(folds_project, root)
    adopt(TaskPaths("synthetic", root).bundle, "A. Reader", root)
    return root


@pytest.fixture(scope="module")
def webhook():
    """A web server that takes notices: its address, and what it got."""
    got = []

    class Taker(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append((self.headers, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Taker) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/", got
        server.shutdown()
        thread.join()


@contextmanager
def served(project, log):
    """A client of the app, which follows the project's pointer."""
    settings, metrics = Settings(bundles=(), limits=Limits(10_000, 10_000)), Metrics(project)
    service = InstrumentedService(ModelWatcher(pointer_file("synthetic", project)), log, metrics)
    with upload_folder() as uploads, socket.create_server(("127.0.0.1", 0)) as listening:
        app = application(settings, build_pages([service], settings, uploads), uploads, metrics)
        config = uvicorn.Config(app, log_level="error", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        while not server.started:
            time.sleep(0.02)
        client = Client(
            f"http://127.0.0.1:{listening.getsockname()[1]}", verbose=False, ssl_verify=False
        )
        yield client
        client.close()
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="session")
def key():
    """What notices are signed with."""
    return "a key of the receiver"


@pytest.fixture(scope="module")
def day(project, webhook, key):
    url, (address, message), clock = f"sqlite:///{project}/log.db", webhook, Clock()
    hook = {"url": address, "secret_variable": KEY_VARIABLE}
    params = MonitorParams.model_validate({"alerts": {"webhook": hook}})
    pointer = pointer_file("synthetic", project)
    with (
        pytest.MonkeyPatch.context() as patch,
        PredictionLog(url, find_secret(url), clock=clock) as log,
        served(project, log) as client,
    ):
        patch.setenv(KEY_VARIABLE, key)
        patch.setattr("monitoring.scheduler.attempt.report_sandboxed", report_here)
        patch.setattr("monitoring.retraining.retrain.reproduce", reproduce_here)
        state = open_state(url)
        runner = _runner(state, pointer, url, None, params, project / MONITORING_REPORTS, Stop(0))
        yield Day(project, clock, client, url, runner, message)
        state.close()
