"""Retention: pages of old reports go; every verdict stays, for it is small and is the record."""

import shutil
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cxr_mm.core.verdict import VERDICT_FILE
from monitoring.report.workspace import REPORT_RUN, locked_index, snapshot_file

DAY_SECONDS = 86_400


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
