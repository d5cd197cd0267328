"""Scoring: a manifest CSV of any length → predictions in one Parquet file, read as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.note import mask_note
from cxr_mm.data.radiograph import read_radiograph
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.errors import InputError, ManifestError
from cxr_mm.files import write_json, written_aside
from cxr_mm.inference import Predictor

BATCH = 32


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


def iter_studies(task: Task, csv_path: Path) -> Iterator[Study | BadRow]:
    """Studies of a manifest CSV, one at a time; films are read only when it is their turn.

    Raises:
        ManifestError: the file is missing, empty, no CSV or lacks a column.
    """
    frame = read_manifest_csv(csv_path, task, labels_required=False)
    for row in frame.to_dict("records"):
        yield _study(task, {str(key): value for key, value in row.items()})


def _study(task: Task, row: dict[str, Any]) -> Study | BadRow:
    study_id = str(row["study_id"])
    note = _text(row.get(task.note.column)) if task.note else None
    image = _text(row.get("image_path")) if task.has_image else None
    try:
        if note and task.note:
            mask_note(note, task.note)  # refused here, so that one note costs one row
        film = read_radiograph(Path(image)) if image else None
        study = Study(
            study_id=study_id,
            patient_id=_text(row.get("patient_id")),
            image=film.pixels if film else None,
            clinical=check_clinical(task.clinical, {n: row.get(n) for n in task.clinical_names}),
            note=note,
            view=_text(row.get("view")) or (film.view if film else None),
            warnings=film.warnings if film else (),
        )
    except InputError as error:
        return BadRow(study_id, str(error))
    if not study.modalities:
        return BadRow(study_id, "there is neither image nor clinical value nor note.")
    return study


def score(predictor: Predictor, manifest_csv: Path, out: Path) -> Scored:
    """Predict every row; good ones go to `out`, bad ones to `out` with the suffix .bad.json.

    Memory does not grow with the number of rows beyond the table itself.

    Raises:
        ManifestError: the manifest cannot be read, or no row of it can be predicted.
    """
    bad: list[BadRow] = []
    studies = _good(iter_studies(predictor.bundle.task, manifest_csv), bad)
    predicted = 0
    with written_aside(out) as aside:
        writer: pq.ParquetWriter | None = None
        try:
            while batch := list(islice(studies, BATCH)):
                rows = pa.Table.from_pandas(
                    pd.DataFrame([_row(answer) for answer in predictor.answer(batch)])
                )
                writer = writer or pq.ParquetWriter(aside, rows.schema)
                writer.write_table(rows)
                predicted += len(batch)
        finally:
            if writer is not None:
                writer.close()
        if not predicted:
            raise ManifestError(
                f"no row can be predicted ({len(bad)} bad, the first: {bad[0].reason})",
                field=str(manifest_csv),
                remedy="Mend the rows",
            )
    write_json(out.with_suffix(".bad.json"), [vars(row) for row in bad])
    return Scored(predicted, tuple(bad))


def _good(found: Iterator[Study | BadRow], bad: list[BadRow]) -> Iterator[Study]:
    for item in found:
        if isinstance(item, BadRow):
            bad.append(item)
        else:
            yield item


def _row(answer: Answer) -> dict[str, Any]:
    prediction = answer.prediction
    row: dict[str, Any] = {
        "study_id": prediction.study_id,
        "patient_id": answer.study.patient_id or "",
        "modalities": "+".join(prediction.modalities),
        "warnings": "; ".join(prediction.warnings),
        "model": prediction.model,
        "digest": prediction.digest,
    }
    for found in prediction.findings:
        row[f"probability.{found.finding}"] = found.probability
        row[f"threshold.{found.finding}"] = (
            float("nan") if found.threshold is None else found.threshold
        )
        row[f"positive.{found.finding}"] = found.positive
    return row


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None
