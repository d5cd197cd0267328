"""Scoring: a manifest CSV of any length → predictions in one Parquet file, read as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import atomic_write, write_json
from cxr_mm.core.prediction import Answer
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.inference.predictor import Predictor

BATCH = 16
"""Studies answered at once; larger batches leave the processor's cache and take longer an image."""
ROW_GROUP = 1024
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
class Scored:
    """How many rows of a manifest were predicted, and which were not."""

    predicted: int
    bad: tuple[BadRow, ...]


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
