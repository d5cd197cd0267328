"""Serving: versions of a task's model, and the pointer that is switched from one to another.

serving/TASK/current.json         the pointer: the only place that names the served model
serving/TASK/versions/DIGEST12/   bundle/, reference/, heldout.parquet, reports/
serving/TASK/changes/             change records

An action is recorded, then carried out by one rename. A switch holds a lock that ends with its
process, and names the digest that must serve at that moment: of two at once, one is refused.
"""

import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path

from cxr_mm.core.errors import InputError, StageError
from cxr_mm.core.files import atomic_directory, write_json
from cxr_mm.core.paths import DIGEST_SHOWN, TaskPaths
from cxr_mm.evaluation.report.figures import CARD_FILE, read_metrics
from cxr_mm.models.registry import (
    BUNDLE,
    POINTER_FILE,
    SERVING,
    Pointer,
    read_index,
    read_pointer,
    version_folder,
)
from monitoring.retraining.change_record import (
    CHANGES,
    Act,
    ChangeRecord,
    Event,
    add_event,
    locked,
    read_record,
)
from monitoring.retraining.experiment import NEWEST_REFERENCE_FOLDER as NEWEST_REFERENCE
from monitoring.retraining.experiment import dvc, keep_addition

FIRST = "first"
"""In place of a record id where the first version of a task is approved."""
REFERENCE, HELDOUT = "reference", "heldout.parquet"
"""Files beside a bundle that belong to it."""
REPORTS = "reports"
DVC_LOG = "dvc.log"
LONGEST_NAME = 200
_log = logging.getLogger(__name__)


def pointer_file(task: str, root: Path = Path()) -> Path:
    """Path of the pointer of a task, which may not exist."""
    return root / SERVING / task / POINTER_FILE


def adopt(bundle: Path, by: str, root: Path = Path()) -> Pointer:
    """Let a bundle be the first version of its task that serves.

    Args:
        bundle: folder of the bundle, with its reference beside it.
        by: name of the person who decides.
        root: folder of the project.

    Raises:
        BundleError: the bundle is damaged.
        InputError: no name is given.
        StageError: a version serves already, or the bundle has no reference.
    """
    name = _named(by)
    index = read_index(bundle)
    with locked(index.task.name, root):
        path = pointer_file(index.task.name, root)
        if path.exists():
            raise StageError(
                "a version serves already",
                field=str(path),
                remedy="Train a challenger with python -m monitoring retrain",
            )
        folder = _version(bundle, TaskPaths(index.task.name, root).reports, root)
        return _point(path, folder, "approved", FIRST, name, None)


def promote(record: str, by: str, root: Path = Path()) -> Pointer:
    """Let the challenger of a change record serve.

    Its version of additions joins those of the project, so that the pipeline of the project would
    make the same model from now on.

    Args:
        record: its id.
        by: name of the person who approves.
        root: folder of the project.

    Raises:
        BundleError: the challenger, or the pointer, is damaged.
        InputError: no name is given.
        StageError: there is no such record, the gate rejected it, or the served model is no longer
            the one that it was compared with.
    """
    name, change = _named(by), read_record(record, root)
    if change.outcome == "rejected":
        raise StageError(
            "the gate has rejected it", field=record, remedy="Read why in its change record"
        )
    with locked(change.task, root):
        current = _champion(change, name, root)
        experiment = TaskPaths(change.task, root / change.experiment)
        bundle = experiment.bundle
        if not bundle.exists():  # promoted before, and the experiment has been removed
            bundle = version_folder(change.task, change.challenger.digest, root) / BUNDLE
        _expect(read_index(bundle).digest, change.challenger.digest, record)
        newest = experiment.root / NEWEST_REFERENCE
        reference = newest if newest.is_dir() else bundle.parent / REFERENCE
        folder = _version(bundle, experiment.reports, root, reference)
        path = pointer_file(change.task, root)
        added = keep_addition(experiment.root, change.task, change.addition, root)
        if added and (root / ".dvc").is_dir():
            dvc(root, "add", str(added.relative_to(root)), log=path.parent / DVC_LOG)
        return _point(path, folder, "approved", record, name, current)


def first_version(task: str, root: Path = Path()) -> Path | None:
    """Folder of the first version of a task that was approved; None where none was.

    Raises:
        BundleError: the pointer is damaged.
    """
    path = pointer_file(task, root)
    if not path.exists():
        return None
    pointer = read_pointer(path)
    return path.parent / (*pointer.before, pointer.folder)[0]


def rollback(task: str, by: str, root: Path = Path()) -> Pointer:
    """Let the version before serve again.

    Raises:
        BundleError: there is no pointer, or the version before is damaged.
        InputError: no name is given.
        StageError: there is no version before.
    """
    name, path = _named(by), pointer_file(task, root)
    read_pointer(path)  # before a folder is created for an unknown task
    with locked(task, root):
        current = read_pointer(path)
        if not current.before:
            raise StageError("no version served before this one", field=str(path))
        folder = path.parent / current.before[-1]
        return _point(path, folder, "rolled back", current.record or FIRST, name, current)


def _point(
    path: Path, folder: Path, act: Act, record: str, by: str, current: Pointer | None
) -> Pointer:
    """Record the action, then point to the version.

    Args:
        path: of the pointer.
        folder: of the version.
        act, record, by: the action, its change record, and the person.
        current: the pointer before it.
    """
    index, now, back = read_index(folder / BUNDLE), datetime.now(UTC), act == "rolled back"
    event = Event(
        record=record,
        act=act,
        by=by,
        at=now,
        before=current.digest if current else "",
        after=index.digest,
    )
    before: tuple[str, ...] = ()
    if current:
        before = current.before[:-1] if back else (*current.before, current.folder)
    pointer = Pointer(
        task=index.task.name,
        folder=folder.relative_to(path.parent).as_posix(),
        digest=index.digest,
        since=now,
        by=by,
        record="" if back else record,
        before=before,
    )
    add_event(path.parent / CHANGES, event)
    write_json(path, pointer.model_dump(mode="json"))
    return pointer


def _champion(record: ChangeRecord, by: str, root: Path) -> Pointer:
    """Pointer to the champion of a record; created if the task has none."""
    path = pointer_file(record.task, root)
    if path.exists():
        current = read_pointer(path)
        _expect(current.digest, record.champion.digest, record.id)
        return current
    bundle = root / record.champion.folder / BUNDLE
    _expect(read_index(bundle).digest, record.champion.digest, record.id)
    folder = _version(bundle, TaskPaths(record.task, root).reports, root)
    return _point(path, folder, "approved", FIRST, by, None)


def _expect(digest: str, wanted: str, record: str) -> None:
    if digest != wanted:
        raise StageError(
            f"it is about {wanted[:DIGEST_SHOWN]}, but {digest[:DIGEST_SHOWN]} serves now",
            field=record,
            remedy="Compare a challenger with the model that serves now: retrain again",
        )


def _version(bundle: Path, reports: Path, root: Path, reference: Path | None = None) -> Path:
    """Copy a bundle and its files below `versions`; an existing version stays."""
    index = read_index(bundle)
    folder = version_folder(index.task.name, index.digest, root)
    if folder.exists():
        _expect(read_index(folder / BUNDLE).digest, index.digest, str(folder))
        return folder
    beside = {name: bundle.parent / name for name in (REFERENCE, HELDOUT)}
    beside[REFERENCE] = reference or beside[REFERENCE]
    if missing := [str(path) for path in beside.values() if not path.exists()]:
        raise StageError(
            "missing beside the bundle",
            field=", ".join(missing),
            remedy=f"Run dvc repro reference@{index.task.name}",
        )
    with atomic_directory(folder) as aside:
        shutil.copytree(bundle, aside / BUNDLE)
        for name, path in beside.items():
            (shutil.copytree if path.is_dir() else shutil.copy2)(path, aside / name)
        if _are_of(reports, index.task.name, index.digest):
            shutil.copytree(reports, aside / REPORTS)
    return folder


def _are_of(reports: Path, task: str, digest: str) -> bool:
    """Whether reports are of this very bundle; says so where they are not."""
    try:
        read_metrics(reports, task, digest)
    except StageError as error:
        if (reports / CARD_FILE).is_file():
            _log.warning("The reports are left out. %s", error)
        return False
    return True


def _named(by: str) -> str:
    name = by.strip()
    if not name or len(name) > LONGEST_NAME:
        raise InputError("a name is needed", field="--by", remedy="Say who decides this")
    return name
