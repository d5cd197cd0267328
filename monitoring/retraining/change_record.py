"""Change records: what a new version changes, why, how it compares, and its approvals.

`serving/TASK/changes/ID.json` and `ID.md` are written once; each later action is a separate file,
`ID.1.json`, `ID.2.json` and so on. Nothing is rewritten. The parts follow a change control plan in
FDA, Marketing Submission Recommendations for a Predetermined Change Control Plan for Artificial
Intelligence-Enabled Device Software Functions, guidance, December 2024.
"""

import fcntl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import AwareDatetime, Field, ValidationError

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, to_json
from cxr_mm.core.paths import DIGEST_SHOWN
from cxr_mm.core.templates import render
from cxr_mm.core.types import Frozen
from cxr_mm.evaluation.report.text import plain, with_interval
from cxr_mm.models.registry import SERVING

CHANGES = "changes"
Outcome = Literal["better", "non-inferior", "worse by less than the margin", "rejected"]
Act = Literal["approved", "rolled back"]


class Model(Frozen):
    """A model that takes part in a comparison."""

    digest: str
    name: str
    folder: str
    """Folder that contains its bundle, relative to the project."""


class ChangeRecord(Frozen):
    """A challenger, its comparison with the champion, and the outcome of the gate."""

    id: str
    task: str
    made_at: AwareDatetime
    synthetic: bool
    champion: Model
    challenger: Model
    experiment: str
    """Folder of the experiment, relative to the project."""
    addition: str
    """Name of the version of additions that the challenger was trained with."""
    change: dict[str, Any]
    """Data, parameters and code before and after."""
    reason: dict[str, Any]
    """The monitoring verdict that led to it, if one was named."""
    protocol: dict[str, Any]
    """Method and margins of the comparison."""
    frozen: str = ""
    """Digest of the ids of the frozen test's studies."""
    attempt: int = Field(1, ge=1)
    """Number of the challenger among those ever judged on this frozen test."""
    outcome: Outcome
    reasons: tuple[str, ...]
    """Reasons for the outcome."""
    comparisons: tuple[dict[str, Any], ...]
    """Every figure of the comparison, as of `comparison.Line`."""
    impact: dict[str, Any]
    """Operating points before and after, and predictions that would change."""


class Event(Frozen):
    """An approval or rollback of a change record."""

    record: str
    act: Act
    by: str = Field(min_length=1)
    at: AwareDatetime
    before: str
    """Digest of the model served before; empty if none."""
    after: str
    """Digest of the model to serve; the pointer names the model in service."""


def record_id(made_at: datetime, digest: str) -> str:
    """Time and digest, as in `20261122T060000Z-0123456789ab`."""
    return f"{made_at.astimezone(UTC):%Y%m%dT%H%M%SZ}-{digest[:DIGEST_SHOWN]}"


def folder_of(task: str, root: Path) -> Path:
    """Folder of the change records of a task."""
    return root / SERVING / task / CHANGES


def write_record(record: ChangeRecord, page: str, root: Path) -> Path:
    """Write a record, once.

    Args:
        page: the record as Markdown for people.
        root: folder of the project.

    Raises:
        StageError: a record of this id exists.
    """
    path = folder_of(record.task, root) / f"{record.id}.json"
    _write_new(path.with_suffix(".md"), page)
    _write_new(path, to_json(record.model_dump(mode="json")))
    return path


def read_record(record: str, root: Path) -> ChangeRecord:
    """Find a record by its id, whatever its task.

    Raises:
        StageError: no such record, or it cannot be read.
    """
    field, remedy = f"--record {record}", f"Look into {SERVING}/TASK/{CHANGES}"
    names = [path.stem for path in (root / SERVING).glob(f"*/{CHANGES}/*.json")]
    if record not in names:
        raise StageError("no such change record", field=field, remedy=remedy)
    (path,) = (root / SERVING).glob(f"*/{CHANGES}/{record}.json")
    try:
        return ChangeRecord.model_validate(read_json(path))
    except (OSError, ValueError, ValidationError) as error:
        raise StageError("not a change record", field=str(path), remedy=remedy) from error


def read_records(task: str, root: Path) -> list[ChangeRecord]:
    """Read every change record of a task.

    Raises:
        StageError: one of them cannot be read.
    """
    names = sorted(path.stem for path in folder_of(task, root).glob("*.json"))
    return [read_record(name, root) for name in names if "." not in name]


@contextmanager
def locked(task: str, root: Path) -> Iterator[None]:
    """Lock the versions and change records of a task; the system frees the lock of a killed
    process."""
    folder = root / SERVING / task
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def add_event(folder: Path, event: Event) -> Path:
    """Write an event beside its change record, as a new file."""
    number = len(read_events(folder, event.record)) + 1
    path = folder / f"{event.record}.{number}.json"
    _write_new(path, to_json(event.model_dump(mode="json")))
    return path


def read_events(folder: Path, record: str) -> list[Event]:
    """Events of a record, oldest first."""
    ordered = sorted(folder.glob(f"{record}.*.json"), key=lambda path: int(path.stem.split(".")[1]))
    return [Event.model_validate(read_json(path)) for path in ordered]


def _write_new(path: Path, text: str) -> None:
    """Write a new file, all or nothing; an existing one is never replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".") as folder:
        aside = Path(folder) / path.name
        aside.write_text(text, encoding="utf-8")
        try:
            path.hardlink_to(aside)
        except FileExistsError as error:
            raise StageError("exists already, and is never rewritten", field=str(path)) from error


def change_page(record: ChangeRecord) -> str:
    """Render the record as Markdown for people, every figure of it."""
    return render("change_record.md", record=record, plain=plain, with_interval=with_interval)
