"""Shards: a table of any length is scored part by part into a folder, and a killed run goes on.

    OUT/predictions/part-000000.parquet   one file for each shard that is done
    OUT/failed/part-000000.parquet        its studies without an answer, each with the reason
    OUT/run.json, studies.parquet         what the run is of, and its studies as rows
    OUT/summary.json                      counts by reason and the rate

Which studies a shard has follows from their number alone, and its file appears whole or not at
all. So no study is lost or doubled whichever process dies, and a run that was resumed gives the
very bytes of one that was not.
"""

import json
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cxr_mm import __version__
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import atomic_write, check_writable, read_json, sha256_file, write_json
from cxr_mm.core.progress import ProgressBar
from cxr_mm.core.types import Frozen, HeaderUse
from cxr_mm.data.studies import BadRow, Row, read_studies, study_rows
from cxr_mm.inference.engine import EngineSettings, Work, run_shards
from cxr_mm.inference.predictor import EncodedAnswer, Predictor, load_predictor
from cxr_mm.inference.table import BATCH, PredictionTable, answer_in_batches
from cxr_mm.inference.tally import Tally, TallyReport
from cxr_mm.models.registry import read_index

RUN_FILE, STUDIES_FILE, SUMMARY_FILE = "run.json", "studies.parquet", "summary.json"
SHARDS = 2048
"""Shards of a long table: a process that dies loses one at most, a 2048th of the work."""
SMALLEST, LARGEST = BATCH, 256 * BATCH
"""Studies in a shard, at least and at most."""
STORED = 4096
"""Studies that are read from `studies.parquet` at a time."""
REPORT = b"cxr_mm.tally"
"""Key of the tally in the metadata of a part."""
STUDIES = pa.schema({"row": pa.string(), "bad": pa.string()})
FAILED = pa.schema({"study_id": pa.string(), "reason": pa.string(), "kind": pa.string()})


class ScoringRun(Frozen):
    """What is scored by which model; a folder holds one run.

    Args:
        bundle: folder of the bundle.
        digest: the bundle's own.
        source: manifest CSV or folder of DICOM files.
        source_sha256: of the CSV's bytes; empty for a folder.
        header: as `iter_studies` has it.
        accept_any_image: as `Predictor` has it.
        version: of this package, which decides how studies are cut into shards.
    """

    bundle: Path
    digest: str
    source: Path
    source_sha256: str
    header: HeaderUse
    accept_any_image: bool
    version: str = __version__


def scoring_run(
    bundle: Path, source: Path, header: HeaderUse = "ignore", accept_any_image: bool = False
) -> ScoringRun:
    """Describe a run, bundle and table checked by their digests.

    Raises:
        BundleError: see `read_index`.
        ManifestError: the table cannot be read.
    """
    digest = read_index(bundle).digest
    try:
        sha256 = "" if source.is_dir() else sha256_file(source)
    except OSError as error:
        raise ManifestError(
            f"cannot be read ({error.strerror})",
            field=str(source),
            remedy="Give the path of a CSV file",
        ) from error
    return ScoringRun(
        bundle=bundle.absolute(),
        digest=digest,
        source=source.absolute(),
        source_sha256=sha256,
        header=header,
        accept_any_image=accept_any_image,
    )


@dataclass(frozen=True)
class Shards:
    """The studies of a folder's run, cut into shards.

    Args:
        out: the folder.
        studies: their number.
    """

    out: Path
    studies: int

    @property
    def size(self) -> int:
        """Studies in a shard, the last perhaps excepted: whole batches."""
        batches = -(-self.studies // (SHARDS * BATCH))
        return min(max(batches * BATCH, SMALLEST), LARGEST)

    def __len__(self) -> int:
        return -(-self.studies // self.size)

    def length(self, shard: int) -> int:
        """Number of studies of a shard."""
        return min(self.size, self.studies - shard * self.size)

    def predictions(self, shard: int) -> Path:
        """File of the predictions of a shard; the shard is done when it exists."""
        return self.out / "predictions" / f"part-{shard:06d}.parquet"

    def failed(self, shard: int) -> Path:
        """File of the studies of a shard that have no answer."""
        return self.out / "failed" / f"part-{shard:06d}.parquet"

    def done(self) -> set[int]:
        """Numbers of the shards that are done."""
        files = (self.out / "predictions").glob("part-*.parquet")
        return {int(file.stem.removeprefix("part-")) for file in files}

    def rows(self, shards: Iterable[int]) -> Iterator[Row | BadRow]:
        """Rows of some shards, as `study_rows` lists them."""
        with pq.ParquetFile(self.out / STUDIES_FILE) as file:
            group, stored = -1, pa.table({})
            for shard in shards:
                start = shard * self.size
                for position in range(start, start + self.length(shard)):
                    if position // STORED != group:
                        group = position // STORED
                        stored = file.read_row_group(group)
                    yield _from_text(stored, position % STORED)


def _from_text(stored: pa.Table, position: int) -> Row | BadRow:
    row, bad = (stored[name][position].as_py() for name in STUDIES.names)
    return BadRow(**json.loads(bad)) if bad else dict(json.loads(row))


def _as_text(row: Row | BadRow) -> dict[str, str | None]:
    bad = json.dumps(vars(row)) if isinstance(row, BadRow) else None
    return {"row": None if bad else json.dumps(row), "bad": bad}


def open_shards(run: ScoringRun, out: Path) -> Shards:
    """List the run's studies in its folder, or take up a folder of the same run.

    Raises:
        InputError: the folder has something else in it.
        ManifestError, DataNotFoundError: as `iter_studies`.
        StorageError: it cannot be written.
    """
    stated = run.model_dump(mode="json")
    if (out / RUN_FILE).is_file():
        differing = [
            name for name, value in read_json(out / RUN_FILE).items() if stated.get(name) != value
        ]
        if differing:
            raise InputError(
                f"is the output of another run: {', '.join(differing)} differ",
                field=str(out),
                remedy="Name another folder, or remove this one",
            )
    else:
        if out.exists() and (not out.is_dir() or any(out.iterdir())):
            raise InputError(
                "exists and is no earlier output of score",
                field=str(out),
                remedy="Name another folder",
            )
        check_writable(out / RUN_FILE)
        _store_rows(study_rows(read_index(run.bundle).task, run.source), out / STUDIES_FILE)
        write_json(out / RUN_FILE, stated)  # last: without it the folder is of no run
    return Shards(out, pq.read_metadata(out / STUDIES_FILE).num_rows)


def _store_rows(rows: Iterator[Row | BadRow], path: Path) -> None:
    with atomic_write(path) as aside, pq.ParquetWriter(aside, STUDIES) as writer:
        while group := list(islice(rows, STORED)):
            writer.write_table(pa.Table.from_pylist([_as_text(row) for row in group], STUDIES))


def load_scoring(run: ScoringRun, shards: Shards) -> Work:
    """Load the bundle and make what scores shards.

    Raises:
        BundleError: see `load_bundle`.
    """
    return partial(_score, load_predictor(run.bundle, run.accept_any_image), run.header, shards)


def _score(
    predictor: Predictor, header: HeaderUse, shards: Shards, numbers: Sequence[int]
) -> Iterator[dict[str, Any]]:
    """Score shards one after another; images of the next are read while the model is at work."""
    todo = [shard for shard in numbers if not shards.predictions(shard).exists()]
    studies = read_studies(predictor.bundle.task, shards.rows(todo), BATCH, header)
    for shard in numbers:
        started = time.perf_counter()
        if shard in todo:
            own = islice(studies, shards.length(shard))
            write_part(predictor, answer_in_batches(predictor, own), shards, shard)
        yield {"shard": shard, "seconds": time.perf_counter() - started}


def write_part(
    predictor: Predictor, answers: Iterable[EncodedAnswer | BadRow], shards: Shards, shard: int
) -> None:
    """Write a shard's predictions and its studies without an answer.

    Raises:
        StorageError: they cannot be written.
    """
    tally = Tally(predictor.bundle.task, predictor.bundle.unchecked)
    codec = PredictionTable(predictor.bundle.task.finding_names)
    rows = [
        codec.row(answer.prediction) | {"patient_id": answer.study.patient_id or ""}
        for answer in tally.answered(answers)
    ]
    if tally.bad:
        _write_table([vars(row) for row in tally.bad], FAILED, shards.failed(shard))
    report = {REPORT: tally.report().model_dump_json()}
    schema = codec.schema(patient_id=pa.string()).with_metadata(report)
    _write_table(rows, schema, shards.predictions(shard))  # last: it says that the shard is done


def _write_table(rows: list[dict[str, Any]], schema: pa.Schema, path: Path) -> None:
    with atomic_write(path) as aside:
        pq.write_table(pa.Table.from_pylist(rows, schema=schema), aside)


def score_folder(run: ScoringRun, out: Path, engine: EngineSettings) -> TallyReport:
    """Score every study into the parts of a folder; what an earlier run has done stays.

    A study that cannot be answered is a row below `failed`. Memory hardly grows with the number of
    studies.

    Args:
        run: what is scored.
        out: a folder: new, empty, or of the same run.
        engine: where it is computed.

    Raises:
        CxrError: as `open_shards` and `run_shards`.
        ManifestError: no study can be predicted.
    """
    shards = open_shards(run, out)
    todo = sorted(set(range(len(shards))) - shards.done())
    started, before = time.perf_counter(), shards.studies - sum(map(shards.length, todo))
    busy = 0.0
    with ProgressBar(total=shards.studies, initial=before, desc="score", unit="study") as bar:
        for result in run_shards(engine, partial(load_scoring, run, shards), todo) if todo else ():
            bar.update(shards.length(result["shard"]))
            busy += result["seconds"]
    report = read_report(shards)
    seconds, studies = time.perf_counter() - started, shards.studies - before
    summary = {
        "studies": shards.studies,
        "answered": report.predicted,
        "failed": report.failed,
        "reasons": report.parts,
        "last_run": {
            "engine": engine.name,
            "studies": studies,
            "seconds": seconds,
            "studies_per_second": studies / seconds,
            "worker_seconds_per_1000": 1000 * busy / studies if studies else None,
        },
    }
    write_json(out / SUMMARY_FILE, summary)
    if not report.predicted:
        raise ManifestError(
            f"no row can be predicted ({report.failed} bad)",
            field=str(run.source),
            remedy=f"Fix the rows; {out / 'failed'} has the reason of each",
        )
    return report


def read_report(shards: Shards) -> TallyReport:
    """Add up what the parts say of their studies."""
    total: TallyReport | None = None
    for shard in range(len(shards)):
        metadata = pq.read_schema(shards.predictions(shard)).metadata
        report = TallyReport.model_validate_json(metadata[REPORT])
        total = report if total is None else total.plus(report)
    assert total is not None, "a source has at least one study"
    return total
