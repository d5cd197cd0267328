"""Columns of the user's tables: what the task calls them, and which of them a table lacks."""

import logging
from collections.abc import Collection
from typing import Literal

import pandas as pd

from cxr_mm.core.errors import nearest
from cxr_mm.core.shards.store import Place
from cxr_mm.core.task import Task
from cxr_mm.core.types import Frozen
from cxr_mm.data.manifest import TEXT_COLUMNS
from cxr_mm.data.tables import missing_column

Use = Literal["train", "evaluate", "predict"]
"""What a table is read for, on which depends what it must have."""
IDS: dict[Use, tuple[str, ...]] = {
    "train": ("study_id", "patient_id"),
    "evaluate": ("study_id",),
    "predict": ("study_id",),
}
OPTIONS = {
    "study_id": "study_column",
    "patient_id": "patient_column",
    "view": "view_column",
    "image_path": "image_column",
}
"""Usual name of a column → option of the source by which a task gives it another."""
_log = logging.getLogger(__name__)


class ColumnOptions(Frozen):
    """Names of columns of the user's table; empty: the usual one."""

    study_column: str = ""
    """Column with an id of each study, instead of `study_id`."""
    patient_column: str = ""
    """Column with an id of the patient, instead of `patient_id`."""
    view_column: str = ""
    """Column with the view position, instead of `view`."""


def with_usual_names(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Add to a table the columns of `OPTIONS`, copied from those that the task names for them.

    A column that the table lacks is not added: one of the usual name, if any, is used then.
    """
    named = {usual: named_by(task, usual) for usual in OPTIONS}
    return frame.assign(**{usual: frame[own] for usual, own in named.items() if own in frame})


def named_by(task: Task, usual: str) -> str:
    """What the task calls a column of `OPTIONS`; any other one is called as usual."""
    return str(task.source.options.get(OPTIONS.get(usual, "")) or usual)


def require_columns(
    task: Task,
    columns: Collection[str],
    path: Place,
    use: Use,
    of_files: Collection[str] = (),
) -> None:
    """Check that a table, under usual names, has what it is read for.

    Every use needs ids. To `train`, every clinical feature and finding is needed too, and no
    column may be spelt almost as the image's or the note's; to `evaluate`, every finding; of all
    but training one input is enough, and those that are absent are logged.

    Args:
        task: whose columns they are.
        columns: names in the table.
        path: of the table.
        use: what it is read for.
        of_files: columns that its image files have in their headers.

    Raises:
        ManifestError: columns are missing; it names them all.
    """
    absent = _absent_inputs(task, columns, of_files)
    missing = [named_by(task, name) for name in IDS[use] if name not in {*columns, *of_files}]
    if use == "train":
        files = [name for name in absent if name in _files(task)]
        missing += [name for name in absent if name not in files]
        missing += _absent_labels(task, columns)
        missing += files if missing or _misspelt(task, files, columns) else []
    else:
        missing += _absent_labels(task, columns) if use == "evaluate" else []
        missing += absent if len(absent) == len(_inputs(task, columns)) else []
    if missing:
        raise missing_column(path, missing, columns)
    if absent and use != "train":
        _log_absent(task, absent, columns, path)


def _files(task: Task) -> list[str]:
    """Columns of image and note, as the task calls them."""
    image = [named_by(task, "image_path")] if task.has_image else []
    return image + ([task.note.column] if task.note else [])


def _inputs(task: Task, columns: Collection[str]) -> dict[str, str]:
    """Inputs of the task: their columns as the task calls them → as the table does."""
    files = dict(zip(_files(task), _files(task), strict=True))
    if task.has_image:
        files[named_by(task, "image_path")] = "image_path"
    return files | {f.column or f.name: f.column_in(columns) for f in task.clinical}


def _absent_inputs(task: Task, columns: Collection[str], of_files: Collection[str]) -> list[str]:
    inputs = _inputs(task, columns)
    return [name for name, own in inputs.items() if own not in columns and own not in of_files]


def _absent_labels(task: Task, columns: Collection[str]) -> list[str]:
    return [f.name for f in task.findings if not {f.raw_column, f.name} & set(columns)]


def _misspelt(task: Task, names: Collection[str], columns: Collection[str]) -> bool:
    """Whether a column that nothing uses is spelt almost as one of these."""
    others = _unused(task, columns)
    return any(nearest(name, others) for name in names)


def _unused(task: Task, columns: Collection[str]) -> list[str]:
    labels = {column for finding in task.findings for column in (finding.raw_column, finding.name)}
    own = {named_by(task, usual) for usual in OPTIONS}
    used = {*TEXT_COLUMNS, *own, *labels, *_inputs(task, columns).values()}
    return [column for column in columns if column not in used]


def _log_absent(task: Task, absent: list[str], columns: Collection[str], path: Place) -> None:
    alike = {name: nearest(name, _unused(task, columns)) for name in absent}
    hints = [f" ({own!r} is another name than {name!r})" for name, own in alike.items() if own]
    _log.info("%s: no column %s, so no study has it%s", path, ", ".join(absent), "".join(hints))
