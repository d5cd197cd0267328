"""Worklist CSV: the table that comes in with the films, and that which goes out with answers."""

import csv
import io
import re
from collections.abc import Iterable, Mapping
from typing import Any

from app.archive import FILES, Item
from app.show import SYNTHETIC
from cxr_mm.contracts.modality import subset_name
from cxr_mm.contracts.prediction import Prediction
from cxr_mm.contracts.task import Task
from cxr_mm.data.sources.manifest_csv import csv_rows, text_pieces
from cxr_mm.errors import ManifestError
from cxr_mm.scoring import VALUES

TABLE_BYTES = 16 * 1024**2
"""Largest table that is read."""
COLUMNS = 1000
"""Most columns that are read; a table of millions would take all memory."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""How a cell begins that a spreadsheet would compute (OWASP, CSV injection)."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.ASCII | re.IGNORECASE)

Cells = Mapping[str, str | None]
"""A row: column → text, None where the cell is empty."""


def read_rows(table: Item, task: Task) -> tuple[list[Cells], tuple[str, ...]]:
    """Rows of a CSV, and its columns that the task does not know.

    Any of the columns of a manifest CSV may be there: `study_id`, `patient_id`, `image_path`,
    `view`, the task's note column and its clinical features; one of `study_id` and `image_path`
    must be.

    Raises:
        ManifestError: it is no CSV, too large, or has neither column.
    """
    try:
        _check_size(table)
        frame = csv_rows(next(text_pieces(table.path, FILES + 1)), (), table.path)
    except ManifestError as error:  # by its name, not by where it lies
        raise ManifestError(error.message, field=table.name, remedy=error.remedy) from error
    names = [str(name) for name in frame.columns]
    if not {"study_id", "image_path"} & set(names):
        raise ManifestError(
            f"neither study_id nor image_path is among its columns ({', '.join(names)})",
            field=table.name,
            remedy="Add one of them",
        )
    if len(frame) > FILES:
        raise ManifestError(
            f"it has more than {FILES} rows",
            field=table.name,
            remedy="Give it in parts, or use cxr-mm score",
        )
    known = {"study_id", "patient_id", "image_path", "view", *task.clinical_names}
    known |= {task.note.column} if task.note else set()
    cells = frame.itertuples(index=False, name=None)
    rows: list[Cells] = [dict(zip(names, row, strict=True)) for row in cells]
    return rows, tuple(name for name in names if name not in known)


def _check_size(table: Item) -> None:
    """Refuse a table that would take all memory, before pandas reads it."""
    if table.path.stat().st_size > TABLE_BYTES:
        raise ManifestError(
            f"it is larger than {TABLE_BYTES // 1024**2} MiB", remedy="Give it in parts"
        )
    with table.path.open(encoding="utf-8-sig", errors="replace", newline="") as stream:
        try:
            width = len(next(csv.reader(stream), ()))
        except csv.Error:
            width = COLUMNS + 1
    if width > COLUMNS:
        raise ManifestError(
            f"it has more than {COLUMNS} columns", remedy="Keep those that the task knows"
        )


def written(predictions: Iterable[Prediction], task: Task) -> str:
    """A CSV with one row per prediction; what is said of each finding is named as `score` does.

    A text that a spreadsheet would compute has an apostrophe before it.
    """
    findings = [f"{value}.{name}" for name in task.finding_names for value in VALUES]
    stream = io.StringIO(newline="")
    table = csv.DictWriter(
        stream,
        ["study_id", "modalities", "warnings", *findings, "model", "digest", "notice"],
        quoting=csv.QUOTE_NONNUMERIC,  # a list separator other than the comma splits no cell then
    )
    table.writeheader()
    for said in predictions:
        table.writerow({name: _cell(value) for name, value in _row(said).items()})
    return stream.getvalue()


def _row(said: Prediction) -> dict[str, Any]:
    row: dict[str, Any] = {
        "study_id": said.study_id,
        "modalities": subset_name(said.modalities),
        "warnings": "; ".join(said.warnings),
        "model": said.model,
        "digest": said.digest,
        "notice": f"{said.notice} {SYNTHETIC}" if said.synthetic else said.notice,
    }
    for found in said.findings:
        row |= {f"{value}.{found.finding}": getattr(found, value) for value in VALUES}
    return row


def _cell(value: Any) -> Any:
    computed = isinstance(value, str) and value.startswith(FORMULA) and not NUMBER.fullmatch(value)
    return f"'{value}" if computed else value
