"""MLflow as a tracking server: one run for each stage that runs."""

import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, Literal

from cxr_mm.core.errors import InputError
from cxr_mm.core.progress import UNTRACKED, Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""Variables of MLflow's own: where the server is, and what the runs are collected under."""
CLIENT_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_RESPECT_RETRY_AFTER_HEADER": "false",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
"""Variables unless the environment has others: by itself MLflow tries for minutes, for hours where
a server says so, and prints an address with the password in it."""
WAIT_AT_END = 30.0
"""Seconds that a stage waits at its end for a server that is slow."""
SENDER = "mlflow"
"""Name of the thread that sends."""
INCOMPLETE = "incomplete"
"""Tag of a run that a value could not be sent of."""
PASSWORD = re.compile(r"//[^/\s]*@")
OF_DVC = {"DVC_EXP_NAME": "dvc.experiment", "DVC_EXP_BASELINE_REV": "dvc.commit"}
"""Variables that `dvc exp run` sets → tags."""
TrackingName = Literal["auto", "mlflow", "off"]
Send = Callable[["MlflowClient", str], object]
"""Sends a value of a run, by its id."""
_log = logging.getLogger(__name__)


@contextmanager
def tracking_run(name: TrackingName, task: str, stage: str) -> Iterator[Tracking]:
    """Track a stage: `mlflow`, or `auto`, which is MLflow where MLFLOW_TRACKING_URI is set.

    Raises:
        InputError: `mlflow` was asked for by name, and it is not installed or has no address.
    """
    if name == "off" or (name == "auto" and not os.environ.get(URI)):
        yield UNTRACKED
        return
    missing = _missing()
    if missing is not None and name == "mlflow":
        raise missing
    if missing is not None:
        _log.warning("not tracked: %s", missing)
        yield UNTRACKED
        return
    run = MlflowRun(task, stage)
    try:
        yield run
    except BaseException:
        run.end("FAILED")
        raise
    run.end("FINISHED")


def _missing() -> InputError | None:
    """What keeps MLflow from being used."""
    try:
        import_module("mlflow.entities")
    except ImportError as error:
        return InputError(
            f"MLflow cannot be imported ({error})",
            field="--tracking mlflow",
            remedy="Install it: pip install 'cxr-mm[mlflow]'",
        )
    if not os.environ.get(URI):
        return InputError(
            "MLflow has no address",
            field=URI,
            remedy=f"Set it, as {URI}=https://mlflow.example.org",
        )
    return None


class MlflowRun(Tracking):
    """Run of MLflow, sent by a thread of its own, for which no stage waits but at its end.

    The run begins with the first value: of several processes that train together, one has values.
    An error is one warning, after which the run gets nothing but its end and the tag `incomplete`.

    Args:
        task: name of the task; the run is below the experiment `cxr_mm/TASK` unless
            MLFLOW_EXPERIMENT_NAME names another.
        stage: name of the stage, by which the run is called.
    """

    def __init__(self, task: str, stage: str) -> None:
        self.task, self.stage = task, stage
        self._values: SimpleQueue[Send | None] = SimpleQueue()
        self._sender: Thread | None = None
        self._status, self._has_ended = "", Event()
        self._is_lost = self._has_warned = False

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Send parameters."""
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in values.items()]
        self._send(lambda client, run: client.log_batch(run, params=params))

    def figures(self, values: Mapping[str, float | None], epoch: int = 0) -> None:
        """Send figures that are finite."""
        from mlflow.entities import Metric

        now = round(time.time() * 1000)
        finite = {n: float(v) for n, v in values.items() if v is not None and math.isfinite(v)}
        metrics = [Metric(name, value, now, epoch) for name, value in finite.items()]
        self._send(lambda client, run: client.log_batch(run, metrics=metrics))

    def tag(self, name: str, value: str) -> None:
        """Send a tag."""
        self._send(lambda client, run: client.set_tag(run, name, value))

    def file(self, path: Path) -> None:
        """Send a file as an artifact."""
        self._send(lambda client, run: client.log_artifact(run, str(path)))

    def end(self, status: str) -> None:
        """End the run, if one has begun; wait `WAIT_AT_END` seconds at most for what is left."""
        if self._sender is None:
            return
        self._status = status
        self._values.put(None)
        self._has_ended.set()
        self._sender.join(WAIT_AT_END)
        if self._sender.is_alive():
            self._warn(f"not done {WAIT_AT_END:g} s after the stage")

    def _send(self, send: Send) -> None:
        self._values.put(send)
        if self._sender is None:
            self._sender = Thread(target=self._work, name=SENDER, daemon=True)
            self._sender.start()

    def _work(self) -> None:
        """Begin the run, send what is queued, and end the run when the stage has ended."""
        with self._losing():
            client, run = self._begin()
            with self._losing():
                for send in iter(self._values.get, None):
                    send(client, run)
            self._has_ended.wait()
            if self._is_lost:
                client.set_tag(run, INCOMPLETE, "true")
            client.set_terminated(run, self._status)

    @contextmanager
    def _losing(self) -> Iterator[None]:
        """Turn an error into one warning: no stage fails by what is told of it."""
        try:
            yield
        except Exception as error:  # noqa: BLE001  of MLflow, a store's package, an odd answer
            self._is_lost = True
            self._warn(f"{type(error).__name__}: {error}".splitlines()[0])

    def _warn(self, reason: str) -> None:
        """Warn, the first time."""
        if self._has_warned:
            return
        self._has_warned = True
        text = f"MLflow at {os.environ.get(URI)} takes nothing more of this run ({reason})"
        _log.warning("%s; the stage goes on without", PASSWORD.sub("//", text))

    def _begin(self) -> "tuple[MlflowClient, str]":
        """Begin the run. Nothing is said of user, host and command, as MLflow does by itself."""
        for name, value in CLIENT_SETTINGS.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient()
        name = os.environ.get(EXPERIMENT) or f"cxr_mm/{self.task}"
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        tags = {"task": self.task, "stage": self.stage}
        tags |= {tag: os.environ[each] for each, tag in OF_DVC.items() if os.environ.get(each)}
        run = client.create_run(experiment, tags=tags, run_name=f"{self.task} {self.stage}")
        return client, run.info.run_id
