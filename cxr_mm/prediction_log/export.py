"""Export: a window of the log as one Parquet file with flat columns, a batch of rows at a time."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm.core.files import atomic_write
from cxr_mm.core.record import PredictionRecord
from cxr_mm.core.types import subset_name
from cxr_mm.prediction_log.log import LogReader

ROWS = 5000
PLAIN = {
    "record_id": pa.string(),
    "created_at": pa.timestamp("us", tz="UTC"),
    "task": pa.string(),
    "model": pa.string(),
    "digest": pa.string(),
    "study_hash": pa.string(),
    "patient_hash": pa.string(),
    "modalities": pa.string(),
    "view": pa.string(),
    "latency_ms": pa.float64(),
    "source": pa.string(),
    "site": pa.string(),
}
NESTED = {
    "clinical": "clinical",
    "quality": "quality",
    "probabilities": "probability",
    "positives": "positive",
    "certainties": "certainty",
    "note_traits": "note",
    "shares": "share",
}
"""Field of a record → what the names of its columns begin with."""
EMBEDDINGS = ("image_embedding", "note_embedding")


def export_window(
    log: LogReader,
    task: str,
    file: Path,
    since: datetime | None = None,
    until: datetime | None = None,
    *,
    embeddings: bool = True,
) -> int:
    """Write a window to a Parquet file, whole or not at all; returns the number of rows.

    One row per record, oldest first; one column per feature, finding and trait
    (`clinical.age`, `probability.icu`, `share.icu.image`); `modalities` as `image+note`; embeddings
    as lists of float32. Ids stay keyed hashes.

    Args:
        log: to read.
        task: whose records.
        file: to write.
        since, until: the window, as `PredictionLog.read_window`.
        embeddings: whether they are wanted.

    Raises:
        LogError: as `read_window`.
        StorageError: the file cannot be written.
    """
    positions = log.window_index(task, since, until).position
    schema = _schema(_flat(log.read_positions(positions, embeddings=False)), embeddings)
    rows, count = _flat(log.read_positions(positions, embeddings=embeddings)), 0
    with atomic_write(file) as aside, pq.ParquetWriter(aside, schema) as writer:
        while batch := list(islice(rows, ROWS)):
            writer.write_table(_table(batch, schema))
            count += len(batch)
    return count


def _flat(records: Iterable[PredictionRecord]) -> Iterator[dict[str, Any]]:
    """Records as rows: every value by the name of its column."""
    for record in records:
        row = {name: getattr(record, name) for name in PLAIN}
        row["modalities"] = subset_name(record.modalities)
        for field, prefix in NESTED.items():
            row |= _named(prefix, getattr(record, field))
        for name in EMBEDDINGS:
            vector = getattr(record, name)
            row[name] = None if vector is None else np.asarray(vector, np.float32)
        yield row


def _named(prefix: str, values: dict[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        column = f"{prefix}.{name}"
        flat |= _named(column, value) if isinstance(value, dict) else {column: value}
    return flat


def _table(rows: list[dict[str, Any]], schema: pa.Schema) -> pa.Table:
    for name in (n for n in schema.names if n not in PLAIN and schema.field(n).type == pa.string()):
        for row in rows:
            if row.get(name) is not None:
                row[name] = str(row[name])
    return pa.Table.from_pylist(rows, schema)


def _schema(rows: Iterable[dict[str, Any]], embeddings: bool) -> pa.Schema:
    """Columns of every row: numbers, yes or no, or text where some value is neither."""
    kinds: dict[str, set[type]] = {}
    for row in rows:
        for name, value in row.items():
            if name not in PLAIN and name not in EMBEDDINGS:
                kinds.setdefault(name, set()).add(type(value))
    columns = dict(PLAIN)
    for name in sorted(kinds, key=lambda n: list(NESTED.values()).index(n.partition(".")[0])):
        columns[name] = _column_type(kinds[name] - {type(None)})
    if embeddings:
        columns |= {name: pa.list_(pa.float32()) for name in EMBEDDINGS}
    return pa.schema(columns.items())


def _column_type(kinds: set[type]) -> pa.DataType:
    if kinds == {bool}:
        return pa.bool_()
    return pa.float64() if kinds <= {int, float} else pa.string()
