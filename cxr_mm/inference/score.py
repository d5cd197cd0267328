"""Scoring: a manifest CSV of any length → predictions in one Parquet file, read as a stream."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.files import atomic_write, write_json
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.inference.predictor import EncodedAnswer, Predictor
from cxr_mm.inference.table import BATCH, PredictionTable, answer_in_batches

ROW_GROUP = 1024


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
    bad: list[BadRow] = []
    codec = PredictionTable(predictor.bundle.task.finding_names)
    studies = iter_studies(predictor.bundle.task, manifest_csv, ahead=BATCH)
    rows = _rows(codec, answer_in_batches(predictor, studies), bad)
    with atomic_write(out) as aside:
        predicted = _write(rows, codec.schema(patient_id=pa.string()), aside)
        if not predicted:
            raise ManifestError(
                f"no row can be predicted ({len(bad)} bad, the first: {bad[0].reason})",
                field=str(manifest_csv),
                remedy="Fix the rows",
            )
    write_json(out.with_suffix(".bad.json"), [vars(row) for row in bad])
    return Scored(predicted, tuple(bad))


def _rows(
    codec: PredictionTable, answers: Iterator[EncodedAnswer | BadRow], bad: list[BadRow]
) -> Iterator[dict[str, Any]]:
    for answer in answers:
        if isinstance(answer, BadRow):
            bad.append(answer)
        else:
            yield codec.row(answer.prediction) | {"patient_id": answer.study.patient_id or ""}


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> int:
    """Write rows as they come, in groups that a reader takes whole; how many there were."""
    written = 0
    with pq.ParquetWriter(path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
            written += len(group)
    return written
