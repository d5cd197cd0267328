"""Scoring: a manifest CSV of any length → predictions in one Parquet file, read as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import atomic_write, write_json
from cxr_mm.core.prediction import Answer
from cxr_mm.core.progress import prefetch
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.notes import mask_note
from cxr_mm.data.sources.manifest_csv import iter_manifest_csv
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.predictor import Predictor

BATCH = 16
"""Studies answered at once; larger batches leave the processor's cache and take longer an image."""
ROW_GROUP = 1024
THREADS = 4
STUDY = {
    **dict.fromkeys(
        ("study_id", "patient_id", "modalities", "classes", "warnings", "model", "digest"),
        pa.string(),
    ),
    "coverage": pa.float64(),
}
VALUES = {
    "probability": pa.float64(),
    "threshold": pa.float64(),
    "positive": pa.bool_(),
    "certainty": pa.string(),
}
"""What is written of each finding; names as in `FindingPrediction`."""


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be predicted, and why."""

    study_id: str
    reason: str


@dataclass(frozen=True)
class Scored:
    """How many rows of a manifest were predicted, and which were not."""

    predicted: int
    bad: tuple[BadRow, ...]


def iter_studies(task: Task, csv_path: Path, ahead: int = 0) -> Iterator[Study | BadRow]:
    """Studies of a manifest CSV, one at a time, in its order.

    Args:
        task: whose columns the table has.
        csv_path: the table; images lie where it says.
        ahead: studies whose images are read, by threads, before it is their turn.

    Raises:
        ManifestError: the file is missing, empty, no CSV or lacks a column.
    """
    yield from prefetch(
        partial(_study, task), _table_rows(task, csv_path), ahead=ahead, threads=THREADS
    )


def _table_rows(task: Task, csv_path: Path) -> Iterator[dict[str, Any]]:
    for frame in iter_manifest_csv(csv_path, task):
        names = [str(name) for name in frame.columns]
        for row in frame.itertuples(index=False, name=None):
            yield dict(zip(names, row, strict=True))


def _study(task: Task, row: dict[str, Any]) -> Study | BadRow:
    study_id = str(row["study_id"])
    note = _text(row.get(task.note.column)) if task.note else None
    image = _text(row.get("image_path")) if task.has_image else None
    try:
        if note and task.note:
            mask_note(note, task.note)  # refused here, so that one note costs one row
        radiograph = read_radiograph(Path(image)) if image else None
        study = Study(
            study_id=study_id,
            patient_id=_text(row.get("patient_id")),
            image=radiograph.pixels if radiograph else None,
            clinical=check_clinical(task.clinical, {n: row.get(n) for n in task.clinical_names}),
            note=note,
            view=_text(row.get("view")) or (radiograph.view if radiograph else None),
            warnings=radiograph.warnings if radiograph else (),
            quality=radiograph.quality if radiograph else {},
        )
    except InputError as error:
        return BadRow(study_id, str(error))
    if not study.modalities:
        return BadRow(study_id, "there is neither image nor clinical value nor note.")
    return study


def score(predictor: Predictor, manifest_csv: Path, out: Path) -> Scored:
    """Predict every row; good ones go to `out`, bad ones to `out` with the suffix .bad.json.

    Images are read while the model works on those before. Memory hardly grows with the number of
    rows: their ids are kept, to find one that occurs twice, and the bad rows.

    Raises:
        ManifestError: the manifest cannot be read, or no row of it can be predicted.
    """
    task, bad = predictor.bundle.task, list[BadRow]()
    studies = _good(iter_studies(task, manifest_csv, ahead=BATCH), bad)
    with atomic_write(out) as aside:
        predicted = _write(_rows(predictor, studies, bad), _schema(task), aside)
        if not predicted:
            raise ManifestError(
                f"no row can be predicted ({len(bad)} bad, the first: {bad[0].reason})",
                field=str(manifest_csv),
                remedy="Mend the rows",
            )
    write_json(out.with_suffix(".bad.json"), [vars(row) for row in bad])
    return Scored(predicted, tuple(bad))


def _rows(
    predictor: Predictor, studies: Iterator[Study], bad: list[BadRow]
) -> Iterator[dict[str, Any]]:
    while batch := list(islice(studies, BATCH)):
        for study, answer in zip(batch, predictor.attempt(batch), strict=True):
            if isinstance(answer, InputError):
                bad.append(BadRow(study.study_id, str(answer)))
            else:
                yield _row(answer)


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> int:
    """Write rows as they come, in groups that a reader takes whole; how many there were."""
    written = 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            written += len(group)
    return written


def _good(found: Iterator[Study | BadRow], bad: list[BadRow]) -> Iterator[Study]:
    for item in found:
        if isinstance(item, BadRow):
            bad.append(item)
        else:
            yield item


def _schema(task: Task) -> pa.Schema:
    """Columns of the output; said beforehand, since a first group may lack some values."""
    columns = dict(STUDY)
    for name in task.finding_names:
        for value, kind in VALUES.items():
            columns[f"{value}.{name}"] = kind
    return pa.schema(columns)


def _row(answer: Answer) -> dict[str, Any]:
    prediction = answer.prediction
    row: dict[str, Any] = {
        "study_id": prediction.study_id,
        "patient_id": answer.study.patient_id or "",
        "modalities": "+".join(prediction.modalities),
        "classes": "+".join(prediction.classes),
        "coverage": prediction.coverage,
        "warnings": "; ".join(prediction.warnings),
        "model": prediction.model,
        "digest": prediction.digest,
    }
    for found in prediction.findings:
        row |= {f"{value}.{found.finding}": getattr(found, value) for value in VALUES}
    return row


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
