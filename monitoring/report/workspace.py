"""Workspace: Evidently's snapshots and dashboards over time, a project for each task.

Evidently 0.7: what a dashboard draws must be a metric of a snapshot, so the figures of a window are
kept as a snapshot of their own, the means of a table with one row. Importing this module is slow,
and switches Evidently's telemetry off.
"""

import fcntl
import math
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.files import read_json, write_json

REPORT_RUN = "report"
FIGURES_RUN = "figures"
Index = dict[str, Any]
"""Task → `project` (its id) and `windows`: end (UTC, ISO 8601) → name of the run → its id."""


@contextmanager
def locked_index(workspace: Path) -> Iterator[Index]:
    """The index, for this process alone; what is changed in it is kept."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        path = workspace / "windows.json"
        index: Index = read_json(path) if path.exists() else {}
        yield index
        write_json(path, index)


def snapshot_file(workspace: Path, project: str, snapshot: str) -> Path:
    """Where Evidently 0.7 keeps a snapshot."""
    return workspace / project / "snapshots" / f"{snapshot}.json"


os.environ.setdefault("DO_NOT_TRACK", "1")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.core.report import Snapshot
    from evidently.metrics import MeanValue
    from evidently.sdk.models import PanelMetric
    from evidently.sdk.panels import line_plot_panel
    from evidently.ui.workspace import Workspace


LOOPBACK = ("127.0.0.1", "localhost", "::1")
PANELS: Mapping[str, str] = {
    "verdict": "Verdict: 0 ok, 1 warn, 2 alarm, -1 too few studies",
    "share_drifted": "Share of columns that drifted",
    "auc": "AUC, where labels came",
    "volume": "Studies",
}
"""Figures that the dashboard draws: their names and titles; a window has those that it knows."""


def add_snapshot(
    workspace: Path, task: str, snapshot: Any, when: datetime, figures: Mapping[str, float]
) -> None:
    """Keep what Evidently found in a window, and draw its figures on the dashboard of the task.

    A window that is reported again takes the place of its former snapshots.

    Args:
        workspace: folder of the workspace; made where it is not there.
        task: whose project; made with its dashboard where it is not there.
        snapshot: what `Report.run` gave; None for a window too small to be compared.
        when: end of the window.
        figures: names and values, among them those of PANELS.
    """
    moment = when.astimezone(UTC).replace(tzinfo=None)  # Evidently compares times without offset
    runs = {FIGURES_RUN: _figures(figures)}
    if snapshot is not None:
        runs[REPORT_RUN] = snapshot
    with locked_index(workspace) as index:
        opened = Workspace.create(str(workspace))
        if task not in index:
            index[task] = {"project": _new_project(opened, task), "windows": {}}
        entry = index[task]
        project, key = entry["project"], moment.isoformat()
        for former in entry["windows"].pop(key, {}).values():
            snapshot_file(workspace, project, former).unlink(missing_ok=True)
        stored = entry["windows"][key] = {}
        for name, run in runs.items():
            model = run.to_snapshot_model()
            model.timestamp, model.name = moment, name
            stored[name] = str(opened.add_run(project, Snapshot.load_model(model)).id)


def serve_workspace(workspace: Path, host: str = "127.0.0.1", port: int = 8000) -> None:
    """Serve the dashboards until SIGTERM or Ctrl-C.

    Args:
        workspace: its folder.
        host: of the loopback; the server knows neither users nor passwords.
        port: 0 takes any that is free.

    Raises:
        ParamsError: other machines could reach the host, or there is no workspace.
    """
    if host not in LOOPBACK:
        raise ParamsError(
            "the dashboards ask no one to sign in, so they are for this machine alone",
            field=f"--host {host}",
            remedy="Forward a port: ssh -L 8000:127.0.0.1:8000",
        )
    if not workspace.is_dir():
        raise ParamsError(
            "no such workspace", field=str(workspace), remedy="Run python -m monitoring report"
        )
    from evidently.ui.service.app import run_local

    import monitoring.report.evidently  # noqa: F401  the snapshots hold its classes

    run_local(host=host, port=port, workspace=str(workspace))


def _new_project(workspace: Workspace, task: str) -> str:
    """A project with its dashboard; its id."""
    project = workspace.create_project(task, "Windows of the prediction log against the reference")
    for name, title in PANELS.items():
        labels = {"column": name}
        sampled = PanelMetric(legend=name, metric="MeanValue", metric_labels=labels)
        project.dashboard.add_panel(line_plot_panel(title, [sampled], size="half"), tab="Over time")
    return str(project.id)


def _figures(figures: Mapping[str, float]) -> Snapshot:
    known = {name: value for name, value in figures.items() if math.isfinite(value)}
    definition = DataDefinition(numerical_columns=list(known))
    table = Dataset.from_pandas(pd.DataFrame([known]), data_definition=definition)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return Report([MeanValue(column=name) for name in known]).run(table, None)
