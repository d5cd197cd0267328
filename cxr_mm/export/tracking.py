"""MLflow as a tracking server: one run for each stage that runs."""

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cxr_mm.core.errors import InputError
from cxr_mm.core.progress import UNTRACKED, Tracking

if TYPE_CHECKING:
    from mlflow import MlflowClient

URI, EXPERIMENT = "MLFLOW_TRACKING_URI", "MLFLOW_EXPERIMENT_NAME"
"""Variables of MLflow's own: where the server is, and what the runs are collected under."""
PATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
"""Variables unless the environment has others: by itself MLflow tries for minutes."""
OF_DVC = {"DVC_EXP_NAME": "dvc.experiment", "DVC_EXP_BASELINE_REV": "dvc.commit"}
"""Variables that `dvc exp run` sets → tags."""
TrackingName = Literal["auto", "mlflow", "off"]
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
    if find_spec("mlflow") is None:
        return InputError(
            "MLflow is not installed",
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
    """Run of MLflow; an error of the server is one warning, after which nothing more is sent.

    The run begins with the first value: of several processes that train together, one has values.

    Args:
        task: name of the task; the run is below the experiment `cxr_mm/TASK` unless
            MLFLOW_EXPERIMENT_NAME names another.
        stage: name of the stage, by which the run is called.
    """

    def __init__(self, task: str, stage: str) -> None:
        self.task, self.stage = task, stage
        self._client: MlflowClient | None = None
        self._run, self._is_lost = "", False

    def parameters(self, values: Mapping[str, Any]) -> None:
        """Send parameters."""
        from mlflow.entities import Param

        params = [Param(name, str(value)) for name, value in values.items()]
        self._send(lambda client, run: client.log_batch(run, params=params))

    def figures(self, values: Mapping[str, float | None], epoch: int = 0) -> None:
        """Send figures that are finite."""
        finite = {n: float(v) for n, v in values.items() if v is not None and math.isfinite(v)}

        def send(client: "MlflowClient", run: str) -> None:
            for name, value in finite.items():
                client.log_metric(run, name, value, step=epoch)

        self._send(send)

    def tag(self, name: str, value: str) -> None:
        """Send a tag."""
        self._send(lambda client, run: client.set_tag(run, name, value))

    def file(self, path: Path) -> None:
        """Send a file as an artifact."""
        self._send(lambda client, run: client.log_artifact(run, str(path)))

    def end(self, status: str) -> None:
        """End the run, if one has begun."""
        if self._client is not None:
            self._send(lambda client, run: client.set_terminated(run, status))

    def _send(self, send: "Callable[[MlflowClient, str], object]") -> None:
        from mlflow.exceptions import MlflowException

        if self._is_lost:
            return
        try:
            if self._client is None:
                self._begin()
            assert self._client is not None
            send(self._client, self._run)
        except (MlflowException, OSError) as error:  # those of requests are OSErrors
            self._is_lost = True
            _log.warning(
                "MLflow at %s takes nothing more of this run (%s); the stage goes on without",
                os.environ.get(URI),
                str(error).splitlines()[0],
            )

    def _begin(self) -> None:
        """Begin the run. Nothing is said of user, host and command, as MLflow does by itself."""
        for name, value in PATIENCE.items():
            os.environ.setdefault(name, value)
        from mlflow import MlflowClient

        client = MlflowClient()
        name = os.environ.get(EXPERIMENT) or f"cxr_mm/{self.task}"
        found = client.get_experiment_by_name(name)
        experiment = client.create_experiment(name) if found is None else found.experiment_id
        tags = {"task": self.task, "stage": self.stage}
        tags |= {tag: os.environ[each] for each, tag in OF_DVC.items() if os.environ.get(each)}
        run = client.create_run(experiment, tags=tags, run_name=f"{self.task} {self.stage}")
        self._client, self._run = client, run.info.run_id
