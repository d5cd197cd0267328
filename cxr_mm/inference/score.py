"""Scoring: a table of any length → predictions in one table, read as a stream."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import atomic_write, check_writable, write_json
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.shards.store import Place
from cxr_mm.core.types import HeaderUse
from cxr_mm.data.studies import iter_studies
from cxr_mm.inference.predictor import Predictor
from cxr_mm.inference.table import BATCH, PredictionTable, answer_in_batches
from cxr_mm.inference.tally import Tally

ROW_GROUP = 1024
WRITERS = {".csv": pa.csv.CSVWriter, ".parquet": pq.ParquetWriter}
"""Suffix of the output → what writes it."""
STARTS = {".csv": b'"study_id"', ".parquet": b"PAR1"}
"""Suffix → first bytes of a file that `score` has written."""


def score(predictor: Predictor, source: Place, out: Path, header: HeaderUse = "ignore") -> Tally:
    """Predict every study; good ones go to `out`, bad ones to `out` with the suffix .bad.json.

    Images are read while the model works on those before. Memory hardly grows with the number of
    rows: their ids are kept, to find one that occurs twice, and the bad rows.

    Args:
        predictor: the model.
        source: as `iter_studies` has it.
        out: a .csv or .parquet file; an earlier one of `score` is replaced.
        header: as `iter_studies` has it.

    Raises:
        InputError, StorageError: nothing can be written to `out`; said before any study is read.
        ManifestError: the manifest cannot be read, or no row of it can be predicted.
    """
    check_out(out, source)
    task = predictor.bundle.task
    codec = PredictionTable(task.finding_names)
    tally = Tally(task, predictor.bundle.unchecked)
    studies = iter_studies(task, source, BATCH, header)
    answers = ProgressBar(answer_in_batches(predictor, studies), desc="studies", unit="study")
    rows = (
        codec.row(answer.prediction) | {"patient_id": answer.study.patient_id or ""}
        for answer in tally.answered(answers)
    )
    with atomic_write(out) as aside:
        _write(rows, codec.schema(patient_id=pa.string()), aside)
        if not tally.predicted:
            raise ManifestError(
                f"no row can be predicted ({len(tally.bad)} bad, the first: {tally.bad[0].reason})",
                field=str(source),
                remedy="Fix the rows",
            )
    write_json(out.with_suffix(".bad.json"), [vars(row) for row in tally.bad])
    return tally


def check_out(out: Path, source: Place) -> None:
    """Check before the work that predictions can be written to `out`.

    Raises:
        InputError: its suffix is not known, it is a folder, the input, or a file of another kind.
        StorageError: it cannot be written there.
    """
    if out.suffix.lower() not in WRITERS:
        raise InputError(
            f"{out.suffix!r} is no format of a table" if out.suffix else "it has no suffix",
            field=str(out),
            remedy=f"Name a file that ends in {' or '.join(WRITERS)}",
        )
    check_writable(out, [source] if isinstance(source, Path) else [])
    if out.is_dir() or (out.exists() and not _is_earlier(out)):
        raise InputError(
            "exists and is no earlier output of score", field=str(out), remedy="Name another file"
        )


def _is_earlier(out: Path) -> bool:
    start = STARTS[out.suffix.lower()]
    with out.open("rb") as stream:
        return stream.read(len(start)) in (start, b"")


def _write(rows: Iterator[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    """Write rows as they come, in groups that a reader takes whole."""
    with WRITERS[path.suffix.lower()](path, schema) as writer:
        while group := list(islice(rows, ROW_GROUP)):
            writer.write_table(pa.Table.from_pylist(group, schema=schema))
