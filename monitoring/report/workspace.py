"""Workspace: Evidently's snapshots and folders of reports, how long they are kept, and the server.

A project of the workspace holds the snapshots of a task. Pages of old reports are removed; every
verdict stays, for it is small and is the record.
"""

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.verdict import VERDICT_FILE

DAY_SECONDS = 86_400
LOOPBACK = ("127.0.0.1", "localhost", "::1")
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


def retain_reports(folder: Path, keep_days: int, keep_last: int) -> list[Path]:
    """Remove all but the verdict of old reports; returns those that were redacted.

    What an interrupted report left half-written goes after a day.

    Args:
        folder: holds a folder for each report.
        keep_days: a younger report stays whole.
        keep_last: so many of the newest stay whole whatever their age.
    """
    now = time.time()
    for aside in folder.glob(".*"):
        if aside.is_dir() and now - aside.stat().st_mtime > DAY_SECONDS:
            shutil.rmtree(aside, ignore_errors=True)
    verdicts = [v for v in folder.glob(f"*/{VERDICT_FILE}") if not v.parent.name.startswith(".")]
    written = sorted(((v.stat().st_mtime, v) for v in verdicts), reverse=True)
    redacted = []
    for moment, verdict in written[keep_last:]:
        rest = [path for path in verdict.parent.iterdir() if path != verdict]
        if now - moment <= keep_days * DAY_SECONDS or not rest:
            continue
        for path in rest:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        redacted.append(verdict.parent)
    return redacted


def retain_snapshots(workspace: Path, task: str, keep_days: int, keep_last: int) -> int:
    """Remove Evidently's reports of old windows; their figures stay on the dashboard.

    Args:
        workspace: folder of Evidently's workspace.
        task: whose windows.
        keep_days: what ended later stays.
        keep_last: so many of the newest stay whatever their age.

    Returns:
        How many were removed.
    """
    if not workspace.is_dir():
        return 0
    oldest = (datetime.now(UTC) - timedelta(days=keep_days)).replace(tzinfo=None)
    with locked_index(workspace) as index:
        entry = index.get(task, {"windows": {}})
        ends = sorted(
            (e for e, runs in entry["windows"].items() if REPORT_RUN in runs), reverse=True
        )
        old = [end for end in ends[keep_last:] if datetime.fromisoformat(end) < oldest]
        for end in old:
            snapshot = entry["windows"][end].pop(REPORT_RUN)
            snapshot_file(workspace, entry["project"], snapshot).unlink(missing_ok=True)
    return len(old)


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
