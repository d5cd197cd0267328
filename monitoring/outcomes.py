"""Outcomes: labels that came later, from a CSV with `study_id` and one column per finding."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pandas as pd

from cxr_mm.contracts.record import Outcome
from cxr_mm.errors import ManifestError

LABELS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}


def read_outcomes(
    path: Path, findings: Sequence[str], hash_id: Callable[[str], str]
) -> list[Outcome]:
    """Labels of a CSV; 1, 0, or an empty cell where nothing is known.

    Args:
        path: the CSV; further columns are not read.
        findings: names of the task's findings; at least one must be a column.
        hash_id: `PredictionLog.hash_id`.

    Raises:
        ManifestError: the file cannot be read, a column is missing, a study is named twice or
            not at all, or a label is neither 1, 0 nor empty.
    """
    try:
        frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    except (OSError, UnicodeDecodeError, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise ManifestError(
            f"not a CSV that can be read ({error})", field=str(path), remedy="Check the file"
        ) from error
    columns = [name for name in findings if name in frame.columns]
    if "study_id" not in frame.columns or not columns:
        raise ManifestError(
            f"it has the columns {', '.join(frame.columns)}",
            field=str(path),
            remedy=f"Give study_id and at least one of {', '.join(findings)}",
        )
    ids = frame["study_id"].str.strip()
    if (ids == "").any() or ids.duplicated().any():
        row = int((~((ids != "") & ~ids.duplicated())).to_numpy().argmax()) + 2
        raise ManifestError("line names no study, or one twice", field=f"{path}:{row}")
    now = datetime.now(UTC)
    return [
        Outcome(study_hash=hash_id(study), finding=name, label=label, recorded_at=now)
        for name in columns
        for line, (study, cell) in enumerate(zip(ids, frame[name], strict=True), start=2)
        if (label := _label(cell, f"{path}:{line}: {name}")) is not None
    ]


def _label(cell: str, field: str) -> int | None:
    text = cell.strip()
    if not text:
        return None
    if text not in LABELS:
        raise ManifestError(
            f"{text[:40]!r} is no label", field=field, remedy="Use 1, 0 or an empty cell"
        )
    return LABELS[text]
