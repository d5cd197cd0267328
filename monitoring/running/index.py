"""Index: which snapshot in Evidently's workspace is of which window, for one process at a time.

Evidently would have to read every snapshot to find that out.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cxr_mm.files import read_json, write_json

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
