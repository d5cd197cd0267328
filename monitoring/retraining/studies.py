"""Studies: what a team hands in, with labels and times of the log, divided by time and patient.

The older part becomes a version of additions; the newest is kept back to judge on. Both are folders
in the layout of a manifest CSV, with films of their own under numbers for names.
"""

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.contracts.manifest import finding_column
from cxr_mm.contracts.record import Outcome
from cxr_mm.contracts.task import ANY_OTHER, Finding, Task
from cxr_mm.data.additions import FOLDER
from cxr_mm.data.labels import labels_of
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE, read_manifest_csv
from cxr_mm.errors import ManifestError, StageError
from cxr_mm.files import folder_written_aside

KEPT_BACK = 0.4
"""Share of the studies that is kept back to judge on."""
FEWEST = 20
"""Studies below which neither part is of use."""
OPTIONAL = ("image_path", "view", "site", "group")


@dataclass(frozen=True)
class Labelled:
    """Studies with a time and a label.

    Args:
        frame: rows of the manifest CSV that are used, image paths absolute.
        labels: (N, F) 1, 0 or NaN, columns by the names of findings.
        times: when each was last predicted.
        newest: (N,) whether it is kept back.
        left_out: reason → studies of the folder that are not used.
    """

    frame: pd.DataFrame
    labels: pd.DataFrame
    times: "pd.Series[pd.Timestamp]"
    newest: NDArray[np.bool_]
    left_out: dict[str, int]


def labelled_studies(
    task: Task,
    folder: Path,
    when: Mapping[str, np.datetime64],
    outcomes: Sequence[Outcome],
    hash_id: Callable[[str], str],
    share: float = KEPT_BACK,
) -> Labelled:
    """Read the studies of a folder, join them with the log, and divide them.

    Args:
        task: the question.
        folder: holds manifest.csv and films; columns of findings may be there or not.
        when: hash of a study → when it was last predicted in the window, UTC; one that is not
            there is left out.
        outcomes: labels of the log.
        hash_id: `PredictionLog.hash_id`.
        share: how many of the studies are to be kept back, whole patients, newest first.

    Raises:
        ManifestError: the table lacks something, a study has no patient, or folder and log give it
            different labels.
        StageError: too few studies have a label.
    """
    path = folder / DEFAULT_FILE
    frame = read_manifest_csv(path, task, labels_required=False)
    _check_patients(frame, path)
    hashes = frame["study_id"].map(hash_id)
    times = pd.to_datetime(hashes.map(when), utc=True)
    labels = _labels(task, frame, hashes, outcomes, path)
    logged, told = times.notna(), labels.notna().any(axis=1)
    left_out = {"not in the window of the log": int((~logged).sum())}
    left_out["no label"] = int((logged & ~told).sum())
    used = logged & told
    frame, labels, times = frame[used], labels[used], times[used]
    newest = newest_patients(frame["patient_id"], times, share)
    if min(newest.sum(), (~newest).sum()) < FEWEST:
        raise StageError(
            f"{int((~newest).sum())} studies to train on and {int(newest.sum())} to judge on have "
            f"a label; {FEWEST} of each are the least",
            field=str(folder),
            remedy="Collect outcomes, or take a longer window",
        )
    return Labelled(frame, labels, times, newest, left_out)


def newest_patients(
    patients: "pd.Series[str]", times: "pd.Series[pd.Timestamp]", share: float
) -> NDArray[np.bool_]:
    """Studies (N,) of the patients who came last, until they are at least `share` of all.

    A patient is as new as the newest study of hers; those equally new go by name.
    """
    last = times.groupby(patients.to_numpy()).max()
    order = last.sort_index().sort_values(ascending=False, kind="stable").index
    sizes = patients.value_counts().loc[order].cumsum()
    wanted = int(np.searchsorted(sizes.to_numpy(), share * len(patients))) + 1
    return patients.isin(order[:wanted]).to_numpy(bool)


def write_studies(task: Task, frame: pd.DataFrame, labels: pd.DataFrame, folder: Path) -> None:
    """Write studies and copies of their films as a version of additions, whole or not at all."""
    columns = ["study_id", "patient_id", *(c for c in OPTIONAL if c in frame), *task.clinical_names]
    columns += [task.note.column] if task.note else []
    columns += [task.group_key] if task.group_key in frame else []
    table = frame[list(dict.fromkeys(columns))].copy()
    for finding in task.findings:
        table[finding.name] = [_cell(finding, label) for label in labels[finding.name]]
    with folder_written_aside(folder) as aside:
        (aside / "films").mkdir()
        films = [_copied(cell, aside / "films", i) for i, cell in enumerate(frame["image_path"])]
        table["image_path"] = films
        table.to_csv(aside / DEFAULT_FILE, index=False)


def keep_addition(experiment: Path, task: str, version: str, root: Path) -> Path | None:
    """Copy a version of additions from an experiment into the project, where it is not there yet.

    Returns:
        Its folder in the project; None where neither has it.
    """
    made, folder = (base / FOLDER / task / version for base in (experiment, root))
    if folder.exists():
        return folder
    if not made.exists():
        return None
    with folder_written_aside(folder) as aside:
        shutil.copytree(made, aside, dirs_exist_ok=True)
    return folder


def _check_patients(frame: pd.DataFrame, path: Path) -> None:
    without = frame["patient_id"].isna()
    if without.any():
        raise ManifestError(
            f"study {frame.loc[without, 'study_id'].iloc[0]!r} has none",
            field=f"{path}: patient_id",
            remedy="Give every study a patient: one patient must not be on both sides",
        )


def _labels(
    task: Task,
    frame: pd.DataFrame,
    hashes: "pd.Series[str]",
    outcomes: Sequence[Outcome],
    path: Path,
) -> pd.DataFrame:
    """Labels of folder and log together."""
    missing = [f.name for f in task.findings if not {f.raw_column, f.name} & set(frame.columns)]
    own, _ = labels_of(task, frame.assign(**dict.fromkeys(missing)))
    logged = {(o.study_hash, o.finding): float(o.label) for o in outcomes}
    merged = {}
    for name in task.finding_names:
        mine = own[finding_column(name)]
        theirs = pd.Series([logged.get((h, name), np.nan) for h in hashes], index=frame.index)
        differ = mine.notna() & theirs.notna() & mine.ne(theirs)
        if differ.any():
            raise ManifestError(
                f"study {frame.loc[differ, 'study_id'].iloc[0]!r} is {mine[differ].iloc[0]:.0f} "
                f"here and {theirs[differ].iloc[0]:.0f} in the log",
                field=f"{path}: {name}",
                remedy="Correct one of the two",
            )
        merged[name] = mine.fillna(theirs)
    return pd.DataFrame(merged)


def _cell(finding: Finding, label: float) -> str | None:
    """A label as the task reads it: in its own words where it names the column like the finding."""
    if np.isnan(label):
        return None
    if finding.raw_column != finding.name:
        return f"{label:.0f}"
    if label:
        return finding.positive[0]
    return "0" if ANY_OTHER in finding.negative else finding.negative[0]


def _copied(cell: object, films: Path, number: int) -> str | None:
    """Where the copy of a film is; a film that is not there is named, and left out later."""
    if not isinstance(cell, str):
        return None
    source = Path(cell)
    target = films / f"{number:06d}{source.suffix.lower()}"
    if source.is_file():
        shutil.copy2(source, target)
    return f"{films.name}/{target.name}"
