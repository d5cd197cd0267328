"""Studies: the one builder of `Study`, for form, API, command line and tables alike."""

import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from cxr_mm.core.errors import InputError
from cxr_mm.core.progress import prefetch
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.notes import check_note
from cxr_mm.data.sources.manifest_csv import iter_manifest_csv
from cxr_mm.data.tables import is_missing
from cxr_mm.imaging.radiograph import Radiograph, read_radiograph

GENERATED_ID = "study-"
"""Prefix of an id that was generated because the caller gave none."""
THREADS = 4
"""Threads that read the images of a table."""


@dataclass(frozen=True)
class BadRow:
    """A study that cannot be predicted, and why."""

    study_id: str
    reason: str


def build_study(
    task: Task,
    read: Callable[[], Radiograph] | None = None,
    clinical: Mapping[str, Any] | None = None,
    note: str | None = None,
    view: str | None = None,
    study_id: str | None = None,
    patient_id: str | None = None,
) -> Study:
    """Build a checked study; the same input gives the same study through every door.

    Blanks around ids, view and note are dropped; what is empty then, or a word for a missing
    value (see `cxr_mm.data.tables`), is absent. Clinical values
    are checked and typed. The view is the one given, else the clinical feature `view`, else the
    image file's. A missing id is generated. The image is read last, and only if the task uses it.

    Args:
        task: whose inputs they are.
        read: reads the image; None without one.
        clinical: feature → number, text or None.
        note: clinical note.
        view: view position.
        study_id, patient_id: the caller's own ids.

    Raises:
        ClinicalError: the task has no such feature; a value that cannot be used is unknown.
        NoteError, RadiographError: the input at fault.
    """
    values = check_clinical(task.clinical, clinical or {})
    text = _stripped(note)
    if text is not None:
        check_note(text)
    image = read() if read is not None and task.has_image else None
    feature = values.get("view")
    given = {"image": read is not None, "note": text is not None}
    unused = [name for name in given if given[name] and name not in task.modalities]
    return Study(
        study_id=_stripped(study_id) or f"{GENERATED_ID}{uuid.uuid4()}",
        patient_id=_stripped(patient_id),
        image=image.pixels if image else None,
        clinical=values,
        note=text if task.note else None,
        view=_stripped(view)
        or (feature if isinstance(feature, str) else None)
        or (image.view if image else None),
        warnings=(
            *(image.warnings if image else ()),
            *(f"{modality}: given, but this model does not use it" for modality in unused),
        ),
        quality=image.quality if image else {},
    )


def _stripped(text: object) -> str | None:
    return None if not isinstance(text, str) or is_missing(text) else text.strip()


def iter_studies(task: Task, csv_path: Path, ahead: int = 0) -> Iterator[Study | BadRow]:
    """Read the studies of a manifest CSV one at a time, in its order.

    Args:
        task: whose columns the table has.
        csv_path: the table; image paths are relative to its folder.
        ahead: studies whose images threads read in advance.

    Raises:
        ManifestError: the file is missing, empty, not a CSV or lacks a column.
    """
    yield from prefetch(
        partial(_study, task), _table_rows(task, csv_path), ahead=ahead, threads=THREADS
    )


def _table_rows(task: Task, csv_path: Path) -> Iterator[dict[str, Any]]:
    for frame in iter_manifest_csv(csv_path, task):
        names = [str(name) for name in frame.columns]
        for row in frame.itertuples(index=False, name=None):
            yield dict(zip(names, row, strict=True))


def _study(task: Task, row: Mapping[str, Any]) -> Study | BadRow:
    path = row.get("image_path")
    try:
        read = partial(read_radiograph, Path(path)) if isinstance(path, str) else None
        study = build_study(task, read, **row_inputs(task, row))
    except InputError as error:
        return BadRow(str(row["study_id"]), str(error))
    if not study.modalities:
        return BadRow(study.study_id, str(nothing_given(task, study)))
    return study


def nothing_given(task: Task, study: Study) -> InputError:
    """Say why a study is empty: the first value that cannot be used, or nothing was given."""
    faults = check_clinical(task.clinical, study.clinical).faults
    return faults[0] if faults else InputError("there is neither image, clinical value nor note")


def row_inputs(task: Task, row: Mapping[str, Any]) -> dict[str, Any]:
    """Take the inputs of `build_study`, all but the image, from a row of a manifest CSV.

    Args:
        task: whose columns they are; others are ignored.
        row: column → cell; None, or no such column, where not known.
    """
    return {
        "clinical": {f.name: row.get(f.column_in(row.keys())) for f in task.clinical},
        "note": row.get(task.note.column) if task.note else None,
        "view": None if "view" in task.clinical_names else row.get("view"),
        "study_id": row.get("study_id"),
        "patient_id": row.get("patient_id"),
    }
