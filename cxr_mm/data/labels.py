"""Raw studies → manifest, by the task's views, label rules and clinical ranges."""

import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr_mm.core.errors import ManifestError, NoteError, TaskError
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ANY_OTHER, ClinicalFeature, Finding, NoteSpec, Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.manifest import ABSENT, Manifest, clinical_column, finding_column
from cxr_mm.data.notes import mask_note
from cxr_mm.data.sources.base import Dropped, RawStudies, dropped_rows
from cxr_mm.data.tables import is_missing

IDENTITY = ("study_id", "patient_id", "group", "view", "site", "part")
SEPARATOR = "|"
UNCLEAR = "neither yes nor no"
WHOLE_NUMBER = re.compile(r"^(-?\d+)\.0+$")


@dataclass(frozen=True)
class Labelled:
    """A manifest, and what was dropped or cleared on the way.

    Args:
        manifest: studies with a label, `pixel_row` -1 until radiographs are decoded.
        dropped: every study dropped so far, by the source or here.
        cleared: reason → number of single values that were set to missing.
    """

    manifest: Manifest
    dropped: list[Dropped]
    cleared: Counter[str]


def to_manifest(task: Task, raw: RawStudies) -> Labelled:
    """Build the task's manifest from a source's raw studies.

    A study is dropped if it has no patient, a view that the task does not use, no label, for a
    multiclass task not exactly one finding, or none of the task's modalities. An invalid
    clinical value or note becomes missing and is counted.

    Raises:
        ManifestError: a label, clinical or note column is missing, or no study is left.
        TaskError: the task's group key is no column.
    """
    studies = raw.frame.reset_index(drop=True)
    labels, unclear = labels_of(task, studies)
    reasons = _reasons(task, studies, labels, unclear)
    usable = reasons.isna()
    frame, cleared = studies[usable], Counter(_counts(unclear[usable]))
    contents = _contents(task, frame, cleared)
    empty = contents.isna().all(axis=1)
    reasons[empty.index[empty]] = "no image, clinical value or note"
    table = pd.concat([_identity(task, frame), contents, labels[usable]], axis=1)[~empty]
    dropped = dropped_rows(studies["study_id"], reasons)
    return Labelled(Manifest.checked(task, table), [*raw.dropped, *dropped], +cleared)


def _identity(task: Task, frame: pd.DataFrame) -> pd.DataFrame:
    """Ids, view, site and part; text columns as str or None."""
    table = pd.DataFrame({name: _text_or_none(frame[name]) for name in IDENTITY})
    if task.group_key != "patient_id":
        if task.group_key not in frame.columns:
            raise TaskError(
                f"{task.group_key!r} is no column of the source",
                field=f"tasks/{task.name}: group_key",
                remedy=f"Columns are {', '.join(map(str, frame.columns))}",
            )
        table["group"] = _text_or_none(frame[task.group_key])
    table["group"] = table["group"].where(table["group"].notna(), table["patient_id"])
    table["pixel_row"] = ABSENT
    return table


def _contents(task: Task, frame: pd.DataFrame, cleared: Counter[str]) -> pd.DataFrame:
    """Inputs of the model: image path, clinical values, note."""
    columns = {
        clinical_column(feature.name): _clinical(feature, frame, cleared)
        for feature in task.clinical
    }
    nothing = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    image = _text_or_none(frame["image_path"]) if task.has_image else nothing
    note = _notes(task.note, frame, cleared) if task.note else nothing
    return pd.DataFrame({"image_path": image, "note": note, **columns})


def _text_or_none(column: "pd.Series[Any]") -> "pd.Series[Any]":
    cells = [
        None if pd.isna(cell) or is_missing(str(cell)) else str(cell).strip() for cell in column
    ]
    return pd.Series(cells, index=column.index, dtype=object)


def _clinical(
    feature: ClinicalFeature, frame: pd.DataFrame, cleared: Counter[str]
) -> "pd.Series[Any]":
    column = feature.column_in(frame.columns)
    if column not in frame.columns:
        raise _missing_column(feature.column or feature.name, frame)
    values = [_checked(feature, cell, cleared) for cell in frame[column]]
    dtype = "float64" if feature.type == "number" else object
    return pd.Series(values, index=frame.index, dtype=dtype)


def _checked(feature: ClinicalFeature, cell: Any, cleared: Counter[str]) -> ClinicalValue:
    checked = check_clinical([feature], {feature.name: cell})
    if checked.faults:
        cleared[f"{clinical_column(feature.name)}: {_fault(feature, cell)}"] += 1
    return checked[feature.name]


def _fault(feature: ClinicalFeature, cell: Any) -> str:
    if feature.type == "category":
        return "none of its categories"
    try:
        float(str(cell))
    except ValueError:
        return "no number"
    return "out of range"


def _notes(spec: NoteSpec, frame: pd.DataFrame, cleared: Counter[str]) -> "pd.Series[Any]":
    if spec.column not in frame.columns:
        raise _missing_column(spec.column, frame)
    notes = _text_or_none(frame[spec.column])
    readable = [note is None or _readable(note) for note in notes]
    cleared.update({"note: not readable": readable.count(False)})
    return notes.where(pd.Series(readable, index=notes.index), None)


def _readable(note: str) -> bool:
    try:
        mask_note(note, NoteSpec())  # without patterns it only checks
    except NoteError:
        return False
    return True


def labels_of(task: Task, frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Labels (1, 0 or NaN) by finding, and where a given label means neither yes nor no.

    Raises:
        ManifestError: a finding has no column.
    """
    labels, unclear = {}, {}
    for finding in task.findings:
        column = finding_column(finding.name)
        labels[column], unclear[column] = _labels(finding, frame)
    table = pd.DataFrame(labels)
    if task.problem == "multiclass":
        # Exactly one class is present, so a yes to one is a no to the others.
        table = table.where(table.notna() | table.ne(1).all(axis=1).to_numpy()[:, None], 0.0)
    return table, pd.DataFrame(unclear)


def _labels(finding: Finding, frame: pd.DataFrame) -> tuple["pd.Series[float]", "pd.Series[bool]"]:
    """By the source's raw column, or by one named after the finding with 1 and 0."""
    if finding.raw_column not in frame.columns:
        if finding.name not in frame.columns:
            raise _missing_column(finding.raw_column, frame)
        finding = Finding(name=finding.name, title=finding.title)
    names = [_label_names(cell, finding) for cell in frame[finding.raw_column]]
    labels = pd.Series([_label(n, finding) for n in names], index=frame.index, dtype="float64")
    given = pd.Series([bool(n) for n in names], index=frame.index, dtype=bool)
    return labels, labels.isna() & given


def _label_names(cell: Any, finding: Finding) -> set[str]:
    """The informative labels of a cell: separated by `|`, and 1.0 read as 1."""
    if pd.isna(cell):
        return set()
    parts = {part.strip() for part in str(cell).split(SEPARATOR) if not is_missing(part)}
    return {WHOLE_NUMBER.sub(r"\1", part) for part in parts} - set(finding.unlabelled)


def _label(names: set[str], finding: Finding) -> float:
    if names & set(finding.positive):
        return 1.0
    if names & set(finding.negative) or (names and ANY_OTHER in finding.negative):
        return 0.0
    return float("nan")


def _counts(unclear: pd.DataFrame) -> dict[str, int]:
    return {f"{name}: {UNCLEAR}": int(count) for name, count in unclear.sum().items() if count}


def _reasons(
    task: Task, frame: pd.DataFrame, labels: pd.DataFrame, unclear: pd.DataFrame
) -> "pd.Series[Any]":
    """The reason for dropping each row, or None. The last reason set counts."""
    reasons = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    if task.problem == "multiclass":
        reasons[labels.sum(axis=1).ne(1)] = "not exactly one finding"
    none = labels.isna().all(axis=1)
    reasons[none] = "no label"
    reasons[none & unclear.any(axis=1)] = f"label {UNCLEAR}"
    if task.views:
        views = _text_or_none(frame["view"]).fillna("not known")
        other = ~views.isin(task.views)
        reasons[other] = "view " + views[other]
    reasons[_text_or_none(frame["patient_id"]).isna()] = "no patient_id"
    return reasons


def _missing_column(name: str, frame: pd.DataFrame) -> ManifestError:
    return ManifestError(
        f"the column is missing (there are {', '.join(map(str, frame.columns))})",
        field=name,
        remedy="Add the column; leave its cells empty where nothing is known",
    )
