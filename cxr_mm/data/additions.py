"""Additions: studies that join a task's training data later; the original data do not change.

Each version is a folder `additions/TASK/VERSION/` of the project in the layout of a manifest CSV,
with its own images. It is never changed; `dvc add` tracks it. Additions are used for training
only: validation and test remain those of the original, so that figures before and after compare.
"""

import hashlib
from pathlib import Path

import pandas as pd

from cxr_mm.core.fingerprints import id_key
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.data.labels import Labelled, to_manifest
from cxr_mm.data.manifest import Manifest, population_column
from cxr_mm.data.sources.base import files_below, raw_studies, stat_of
from cxr_mm.data.sources.losses import Dropped
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE, read_manifest_csv

ADDED = "added"
"""Value of the manifest's column `part`."""
FOLDER = "additions"
KNOWN = "addition"
"""First word of the reason for leaving out a study of an addition that is known already."""


def additions_folder(paths: TaskPaths) -> Path:
    """Folder of a task's versions."""
    return paths.root / FOLDER / paths.task


def versions(paths: TaskPaths) -> list[Path]:
    """Folders of all versions, in the order of their names."""
    return sorted(file.parent for file in additions_folder(paths).glob(f"*/{DEFAULT_FILE}"))


def read_addition(task: Task, folder: Path) -> Labelled:
    """Read the studies of one version by the task's rules; ages and order of studies are those of
    the source alone.

    Raises:
        ManifestError: its table is incomplete, or no study is left.
    """
    frame = read_manifest_csv(folder.resolve() / DEFAULT_FILE, task, "train")
    return to_manifest(task.unfiltered(), raw_studies(frame, []))


def with_additions(labelled: Labelled, paths: TaskPaths) -> Labelled:
    """Append the studies of every version.

    A study whose patient, group or id already exists is dropped, since that patient may be in the
    test part.

    Raises:
        ManifestError: as `read_addition`.
    """
    original = labelled.manifest.frame
    for folder in versions(paths):
        labelled = _joined(
            labelled, read_addition(labelled.manifest.task, folder), original, folder
        )
    return labelled


def _joined(labelled: Labelled, more: Labelled, original: pd.DataFrame, folder: Path) -> Labelled:
    """Append one version; a patient may occur again in a later one."""
    before, frame = labelled.manifest.frame, more.manifest.frame
    known = frame["study_id"].isin(before["study_id"])
    for column in ("patient_id", "group"):
        known |= frame[column].map(id_key).isin(original[column].map(id_key))
    reason = f"{KNOWN} {folder.name}: the patient or study is there already"
    dropped = [Dropped(study, reason) for study in frame.loc[known, "study_id"]]
    joined = pd.concat([before, frame[~known].assign(part=ADDED)], ignore_index=True)
    for population in labelled.manifest.task.populations:
        column = population_column(population.name)
        joined[column] = joined[column].eq(True)  # an addition does not say where it belongs
    return Labelled(
        Manifest.checked(labelled.manifest.task, joined),
        [*labelled.dropped, *more.dropped, *dropped],
        labelled.cleared + more.cleared,
        (*labelled.notices, *more.notices),
    )


def additions_fingerprint(paths: TaskPaths) -> dict[str, str]:
    """Version → digest of its table and of the names and sizes of its files.

    A copy of a version has the same digest.
    """
    return {folder.name: _digest(folder) for folder in versions(paths)}


def _digest(folder: Path) -> str:
    digest = hashlib.sha256((folder / DEFAULT_FILE).read_bytes())
    for file in files_below(folder):
        digest.update(f"{file.relative_to(folder).as_posix()}\0{stat_of(file).st_size}\n".encode())
    return digest.hexdigest()
