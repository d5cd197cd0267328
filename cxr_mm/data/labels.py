"""Raw studies → manifest, by the task's label rules, filters and clinical ranges."""

from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr_mm.core.errors import ManifestError, NoteError, TaskError, did_you_mean
from cxr_mm.core.fingerprints import id_key
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ClinicalFeature, NoteSpec, Task
from cxr_mm.data.clinical import age_in_years, check_clinical, expected_value
from cxr_mm.data.manifest import (
    ABSENT,
    Manifest,
    clinical_column,
    finding_column,
    population_column,
)
from cxr_mm.data.notes import mask_note
from cxr_mm.data.sources.base import RawStudies
from cxr_mm.data.sources.label_rules import as_written, labels_of
from cxr_mm.data.sources.losses import (
    Cleared,
    Dropped,
    by_reason,
    describe_reasons,
    dropped_rows,
)
from cxr_mm.data.tables import is_missing, missing_column

IDENTITY = ("study_id", "patient_id", "group", "site", "publisher", "part")
UNCLEAR = "neither yes nor no"
NOT_ONE = "not exactly one finding"
LATER = "a later study of the patient"
AGE = "age"
PAIRS = 3
"""Pairs of ids quoted in a notice."""


@dataclass(frozen=True)
class Labelled:
    """A manifest, and what was dropped or cleared on the way.

    Args:
        manifest: studies with a label, `pixel_row` -1 until radiographs are decoded.
        dropped: every study dropped so far, by the source or here.
        cleared: single values that were set to missing.
        notices: sentences without a full stop that a user should read.
    """

    manifest: Manifest
    dropped: list[Dropped]
    cleared: Cleared
    notices: tuple[str, ...] = ()


def to_manifest(task: Task, raw: RawStudies) -> Labelled:
    """Build the task's manifest, which has a study at least, as `label_studies` does.

    Raises:
        ManifestError: as `label_studies`; or no study is left.
        TaskError: as `label_studies`.
    """
    labelled = label_studies(task, raw)
    if not len(labelled.manifest):
        reasons = describe_reasons(by_reason(labelled.dropped, expected_cells(task)))
        raise ManifestError(
            f"no study is left of {len(labelled.dropped)}: {'; '.join(reasons)}",
            field="manifest",
            remedy="Write what the task expects, or have the task expect what is there",
        )
    return labelled


def label_studies(task: Task, raw: RawStudies) -> Labelled:
    """Apply the task's label rules, filters and clinical ranges to a source's raw studies.

    A study is dropped if it has no patient, a view or age that the task does not use, no label,
    for a multiclass task not exactly one finding, none of the task's modalities, or where the task
    takes the first study of each patient is not that. An invalid clinical value or note becomes
    missing and is counted. The manifest may be empty.

    Raises:
        ManifestError: a label, clinical or note column is missing, or that of a filter or a
            population.
        TaskError: the task's group key is no column.
    """
    studies = raw.frame.reset_index(drop=True)
    labels, unclear = labels_of(task, studies)
    reasons, found = _reasons(task, studies, labels, unclear)
    usable = reasons.isna()
    frame, cleared = studies[usable], _unclear_cells(task, studies[usable], unclear[usable])
    contents = _contents(task, frame, cleared)
    empty = contents.isna().all(axis=1)
    reasons[empty.index[empty]] = "no image, clinical value or note"
    identity, notices = _identity(task, frame)
    columns = [identity, contents, labels[usable], _populations(task, frame)]
    table = pd.concat(columns, axis=1)[~empty]
    dropped = dropped_rows(studies["study_id"], reasons, found)
    manifest = Manifest.checked(task, table, may_be_empty=True)
    return Labelled(manifest, [*raw.dropped, *dropped], cleared, (*raw.notices, *notices))


def expected_cells(task: Task) -> dict[str, str]:
    """Describe what the task expects: by manifest column, and by first word of a reason."""
    labels = {
        finding_column(f.name): " or ".join((*f.positive, *f.negative)) for f in task.findings
    }
    return {
        **{clinical_column(f.name): expected_value(f) for f in task.clinical},
        **labels,
        "label": "; ".join(dict.fromkeys(labels.values())),
        NOT_ONE.split()[0]: "exactly one of " + ", ".join(task.finding_names),
        "view": ", ".join(task.views),
        "age": "{:g} to {:g} years".format(*task.ages) if task.ages else "",
    }


def _identity(task: Task, frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Ids, view, site and part, text columns as str or None; and notices of ids made one."""
    table = pd.DataFrame({name: _text_or_none(frame[name]) for name in IDENTITY})
    table["view"] = _views(task, frame)
    if task.group_key != "patient_id":
        columns = [str(name) for name in frame.columns]
        if task.group_key not in columns:
            raise TaskError(
                f"{task.group_key!r} is no column of the source",
                field=f"tasks/{task.name}: group_key",
                remedy=did_you_mean(task.group_key, columns, f"Columns are {', '.join(columns)}"),
            )
        table["group"] = _text_or_none(frame[task.group_key])
    table["patient_id"], notices = _one_spelling(table["patient_id"])
    table["group"], _ = _one_spelling(table["group"])
    table["group"] = table["group"].where(table["group"].notna(), table["patient_id"])
    table["pixel_row"] = ABSENT
    return table, notices


def _one_spelling(ids: "pd.Series[Any]") -> tuple["pd.Series[Any]", list[str]]:
    """Ids of one key under the spelling that comes first; and a notice where there were others."""
    first: dict[str, str] = {}
    for text in ids.dropna():
        first.setdefault(id_key(text), text)
    one = ids.map(lambda text: first[id_key(text)], na_action="ignore")
    other = ids.notna() & ids.ne(one)
    if not other.any():
        return ids, []
    pairs = list(dict.fromkeys(zip(one[other], ids[other], strict=True)))
    examples = ", ".join(f"{a!r} and {b!r}" for a, b in pairs[:PAIRS])
    return one, [
        f"{len({a for a, _ in pairs})} patients whose id is spelt in several ways are each taken"
        f" for one, as {examples}"
    ]


def _views(task: Task, frame: pd.DataFrame) -> "pd.Series[Any]":
    return _text_or_none(frame["view"]).map(task.spelt_view, na_action="ignore")


def _contents(task: Task, frame: pd.DataFrame, cleared: Cleared) -> pd.DataFrame:
    """Inputs of the model: image path, clinical values, note."""
    columns = {
        clinical_column(feature.name): _clinical(feature, frame, cleared)
        for feature in task.clinical
    }
    nothing = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    image = _text_or_none(frame["image_path"]) if task.has_image else nothing
    note = _notes(task.note, frame, cleared) if task.note else nothing
    return pd.DataFrame({"image_path": image, "note": note, **columns})


def _populations(task: Task, frame: pd.DataFrame) -> pd.DataFrame:
    """Whether each study belongs to each population."""
    inside = {}
    for population in task.populations:
        belongs = pd.Series(data=True, index=frame.index)
        for column, values in population.only.items():
            if column not in frame.columns:
                raise missing_column("", [column], frame.columns)
            cells = _views(task, frame) if column == "view" else _text_or_none(frame[column])
            belongs &= cells.isin(values)
        inside[population_column(population.name)] = belongs
    return pd.DataFrame(inside, index=frame.index)


def _text_or_none(column: "pd.Series[Any]") -> "pd.Series[Any]":
    cells = [
        None if pd.isna(cell) or is_missing(str(cell)) else str(cell).strip() for cell in column
    ]
    return pd.Series(cells, index=column.index, dtype=object)


def _clinical(feature: ClinicalFeature, frame: pd.DataFrame, cleared: Cleared) -> "pd.Series[Any]":
    column = feature.column_in(frame.columns)
    if column not in frame.columns:
        raise missing_column("", [feature.column or feature.name], frame.columns)
    values = [_checked(feature, cell, cleared) for cell in frame[column]]
    dtype = "float64" if feature.type == "number" else object
    return pd.Series(values, index=frame.index, dtype=dtype)


def _checked(feature: ClinicalFeature, cell: Any, cleared: Cleared) -> ClinicalValue:
    checked = check_clinical([feature], {feature.name: cell})
    for fault in checked.faults:
        cleared[clinical_column(feature.name), fault.kind, str(cell).strip()] += 1
    return checked[feature.name]


def _notes(spec: NoteSpec, frame: pd.DataFrame, cleared: Cleared) -> "pd.Series[Any]":
    if spec.column not in frame.columns:
        raise missing_column("", [spec.column], frame.columns)
    notes = _text_or_none(frame[spec.column])
    readable = [note is None or _readable(note) for note in notes]
    if unreadable := readable.count(False):
        cleared["note", "not readable", ""] += unreadable  # the text itself is shown nowhere
    return notes.where(pd.Series(readable, index=notes.index), None)


def _readable(note: str) -> bool:
    try:
        mask_note(note, NoteSpec())  # without patterns it only checks
    except NoteError:
        return False
    return True


def _unclear_cells(task: Task, frame: pd.DataFrame, unclear: pd.DataFrame) -> Cleared:
    """Labels of used studies that mean neither yes nor no."""
    cleared = Cleared()
    for finding in task.findings:
        column = finding_column(finding.name)
        cells = frame.loc[unclear[column], as_written(finding, frame).raw_column]
        cleared.update((column, UNCLEAR, str(cell).strip()) for cell in cells)
    return cleared


def _reasons(
    task: Task, frame: pd.DataFrame, labels: pd.DataFrame, unclear: pd.DataFrame
) -> tuple["pd.Series[Any]", "pd.Series[str]"]:
    """The reason for dropping each row, or None, the last one set; and the cell at fault."""
    reasons = pd.Series([None] * len(frame), index=frame.index, dtype=object)
    found = pd.Series("", index=frame.index, dtype=object)
    none = labels.isna().all(axis=1)
    faulty = none & unclear.any(axis=1)
    if task.problem == "multiclass":
        several = labels.sum(axis=1).ne(1) & ~none
        reasons[several] = NOT_ONE
        faulty |= several
    reasons[none] = "no label"
    reasons[none & unclear.any(axis=1)] = f"label {UNCLEAR}"
    found.update(_label_cells(task, frame[faulty]))
    if task.views:
        views = _views(task, frame).fillna("not known")
        other = ~views.isin(task.views)
        reasons[other] = "view " + views[other]
        found[other] = views[other]
    if task.ages:
        ages = _ages(task, frame)
        outside = ~ages.between(*task.ages)
        reasons[outside] = "age outside the range"
        reasons[ages.isna()] = "age not known"
        found[outside] = ages.map("{:g}".format, na_action="ignore").fillna("")
    patients = _text_or_none(frame["patient_id"])
    reasons[patients.isna()], found[patients.isna()] = "no patient_id", ""
    if task.first_by:
        later = _later(patients, _order(task, frame), reasons.isna())
        reasons[later], found[later] = LATER, ""
    return reasons, found


def _ages(task: Task, frame: pd.DataFrame) -> "pd.Series[float]":
    """Ages in years, missing where not known."""
    features = {feature.name: feature for feature in task.clinical}
    column = features[AGE].column_in(frame.columns) if AGE in features else AGE
    if column not in frame.columns:
        raise missing_column("", [column], frame.columns)
    return pd.to_numeric(frame[column].map(age_in_years), errors="coerce")


def _order(task: Task, frame: pd.DataFrame) -> "pd.Series[Any]":
    """What a patient's studies are ordered by: numbers, or text such as dates in ISO 8601."""
    if task.first_by not in frame.columns:
        raise missing_column("", [task.first_by], frame.columns)
    text = _text_or_none(frame[task.first_by])
    numbers = pd.to_numeric(text, errors="coerce")
    return numbers if numbers.notna().equals(text.notna()) else text


def _later(
    patients: "pd.Series[Any]", order: "pd.Series[Any]", usable: "pd.Series[bool]"
) -> "pd.Series[bool]":
    """Whether each study is usable and not its patient's first; those without an order are last."""
    ranked = order[usable].sort_values(kind="stable", na_position="last").index
    again = patients[ranked].map(id_key).duplicated()
    return usable & again.reindex(usable.index, fill_value=False)


def _label_cells(task: Task, frame: pd.DataFrame) -> "pd.Series[str]":
    """The raw labels of each row, each different one once."""
    columns = list(dict.fromkeys(as_written(f, frame).raw_column for f in task.findings))
    rows = frame[columns].itertuples(index=False, name=None)
    cells = [(str(cell).strip() for cell in row if not pd.isna(cell)) for row in rows]
    found = [", ".join(dict.fromkeys(row)) for row in cells]
    return pd.Series(found, index=frame.index, dtype=object)
