"""Shards: a table of any length is scored part by part into a folder, and a killed run goes on.

    OUT/predictions/part-000000.parquet   one file for each shard that is done
    OUT/failed/part-000000.parquet        its studies without an answer, each with the reason
    OUT/run.json, studies.parquet         what the run is of, and its studies as rows
    OUT/summary.json                      counts by reason, rate and cost

OUT is a folder on disk or in an object store. Which studies a shard has follows from their number
alone, and its file appears whole or not at all. So no study is lost or doubled whichever process
dies, and a run that was resumed gives the very bytes of one that was not.
"""

import io
import json
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from cxr_mm import __version__
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.progress import ProgressBar, prefetch
from cxr_mm.core.shards.store import Place, Store, place_of
from cxr_mm.core.shards.work import Work, shard_size, shards_of
from cxr_mm.core.types import Frozen, HeaderUse, plural
from cxr_mm.data.sources.shard_tables import table_digest
from cxr_mm.data.studies import BadRow, Row, read_studies, study_rows
from cxr_mm.inference.engine import EngineName, EngineSettings, run_shards
from cxr_mm.inference.predictor import EncodedAnswer, Predictor, load_predictor
from cxr_mm.inference.table import BATCH, PredictionTable, answer_in_batches
from cxr_mm.inference.tally import Tally, TallyReport
from cxr_mm.models.registry import read_index

RUN_FILE, STUDIES_FILE, SUMMARY_FILE = "run.json", "studies.parquet", "summary.json"
PREDICTIONS, FAILED = "predictions", "failed"
PART = re.compile(r"part-\d{6}\.parquet")
STORED = 4096
"""Studies that are read from `studies.parquet` at a time."""
READERS = 8
"""Threads that read the tallies of parts."""
REPORT = b"cxr_mm.tally"
"""Key of the tally in the metadata of a part."""
STUDIES = pa.schema({"row": pa.string(), "bad": pa.string()})
FAILURES = pa.schema({"study_id": pa.string(), "reason": pa.string(), "kind": pa.string()})


class ScoringRun(Frozen):
    """What is scored by which model; a folder holds one run.

    Args:
        bundle: folder of the bundle.
        digest: the bundle's own.
        source: path or URL of a table, or folder of DICOM files.
        source_sha256: of a CSV's bytes, or of names and sizes of shards; empty for DICOM files.
        header: as `iter_studies` has it.
        accept_any_image: as `Predictor` has it.
        version: of this package, which decides how studies are cut into shards.
    """

    bundle: Path
    digest: str
    source: str
    source_sha256: str
    header: HeaderUse
    accept_any_image: bool
    version: str = __version__


def scoring_run(
    bundle: Path, source: Place, header: HeaderUse = "ignore", accept_any_image: bool = False
) -> ScoringRun:
    """Describe a run, bundle and table checked by their digests.

    Raises:
        BundleError: see `read_index`.
        ManifestError: the table cannot be read.
    """
    return ScoringRun(
        bundle=bundle.absolute(),
        digest=read_index(bundle).digest,
        source=source if isinstance(source, str) else str(source.absolute()),
        source_sha256=table_digest(source),
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

    out: Store
    studies: int

    @property
    def size(self) -> int:
        """Studies in a shard, the last perhaps excepted."""
        return shard_size(self.studies, BATCH)

    def __len__(self) -> int:
        return len(shards_of(self.studies, self.size))

    def length(self, shard: int) -> int:
        """Number of studies of a shard."""
        return min(self.size, self.studies - shard * self.size)

    def done(self) -> set[int]:
        """Numbers of the shards that are done: those with a part of predictions."""
        parts = [name for name in self.out.names(PREDICTIONS) if PART.fullmatch(name)]
        return {int(name[5:11]) for name in parts}

    def rows(self, shards: Iterable[int]) -> Iterator[Row | BadRow]:
        """Rows of some shards, as `study_rows` lists them."""
        with self.out.open(STUDIES_FILE) as stream, pq.ParquetFile(stream) as file:
            group, stored = -1, pa.table({})
            for shard in shards:
                start = shard * self.size
                for position in range(start, start + self.length(shard)):
                    if position // STORED != group:
                        group = position // STORED
                        stored = file.read_row_group(group)
                    yield _from_text(stored, position % STORED)


def part(folder: str, shard: int) -> str:
    """Name of the part of a shard in `PREDICTIONS` or `FAILED`."""
    return f"{folder}/part-{shard:06d}.parquet"


def _from_text(stored: pa.Table, position: int) -> Row | BadRow:
    row, bad = (stored[name][position].as_py() for name in STUDIES.names)
    return BadRow(**json.loads(bad)) if bad else dict(json.loads(row))


def _as_text(row: Row | BadRow) -> dict[str, str | None]:
    bad = json.dumps(vars(row)) if isinstance(row, BadRow) else None
    return {"row": None if bad else json.dumps(row), "bad": bad}


def open_shards(run: ScoringRun, place: Place) -> Shards:
    """List the run's studies in its folder, or take up a folder of the same run.

    Raises:
        InputError: the folder has something else in it.
        ManifestError, DataNotFoundError: as `iter_studies`.
        StorageError: it cannot be written.
    """
    out, stated = Store.at(place), run.model_dump(mode="json")
    if out.exists(RUN_FILE):
        differing = [
            name for name, value in out.read_json(RUN_FILE).items() if stated.get(name) != value
        ]
        if differing:
            raise InputError(
                f"is the output of another run: {', '.join(differing)} differ",
                field=str(place),
                remedy="Name another folder, or remove this one",
            )
    else:
        if out.names() or (out.folder and out.folder.is_file()):
            raise InputError(
                "exists and is no earlier output of score",
                field=str(place),
                remedy="Name another folder",
            )
        out.check_writable(RUN_FILE)
        with out.writing(STUDIES_FILE) as aside:
            _store_rows(study_rows(read_index(run.bundle).task, place_of(run.source)), aside)
        out.write_json(RUN_FILE, stated)  # last: without it the folder is of no run
    with out.open(STUDIES_FILE) as stream:
        return Shards(out, pq.read_metadata(stream).num_rows)


def _store_rows(rows: Iterator[Row | BadRow], path: Path) -> None:
    with pq.ParquetWriter(path, STUDIES) as writer:
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
    todo = [shard for shard in numbers if not shards.out.exists(part(PREDICTIONS, shard))]
    studies = read_studies(predictor.bundle.task, shards.rows(todo), BATCH, header)
    for shard in numbers:
        started = time.perf_counter()
        if shard in todo:
            own = islice(studies, shards.length(shard))
            write_part(predictor, answer_in_batches(predictor, own), shards.out, shard)
        seconds = time.perf_counter() - started
        yield {"shard": shard, "processor_seconds": seconds * torch.get_num_threads()}


def write_part(
    predictor: Predictor, answers: Iterable[EncodedAnswer | BadRow], out: Store, shard: int
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
        out.write(part(FAILED, shard), _parquet([vars(row) for row in tally.bad], FAILURES))
    report = {REPORT: tally.report().model_dump_json()}
    schema = codec.schema(patient_id=pa.string()).with_metadata(report)
    out.write(part(PREDICTIONS, shard), _parquet(rows, schema))  # last: it says that it is done


def _parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), sink)
    return sink.getvalue()


class RunCost(Frozen):
    """What the last run into a folder took.

    Args:
        engine: where.
        studies: those that it answered or listed as failed.
        seconds: of waiting, start and loading included.
        processor_seconds: of the workers at work, each with the threads of its model.
        price_per_hour: of one processor; None where it is not known.
    """

    engine: EngineName
    studies: int
    seconds: float
    processor_seconds: float
    price_per_hour: float | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures with those that follow from them; None where there was nothing to do."""
        return self.model_dump() | {
            "studies_per_second": self.studies / self.seconds,
            "processor_seconds_per_1000": self._per_1000(self.processor_seconds),
            "cost_per_1000": self.cost_per_1000,
        }

    @property
    def cost_per_1000(self) -> float | None:
        """Price of 1,000 studies."""
        hours = self.processor_seconds / 3600
        return None if self.price_per_hour is None else self._per_1000(hours * self.price_per_hour)

    def _per_1000(self, value: float) -> float | None:
        return 1000 * value / self.studies if self.studies else None

    def line(self) -> str:
        """The figures for a person; empty where there was nothing to do."""
        if not self.studies:
            return ""
        rate = f"{plural(self.studies, 'study')} in {self.seconds:.0f} s"
        rate = f"{rate}, {self.studies / self.seconds:.3g} a second"
        work = f"{self._per_1000(self.processor_seconds):.3g} processor seconds"
        price = "" if self.cost_per_1000 is None else f", which cost {self.cost_per_1000:.3g},"
        return f"{rate}; {work}{price} for 1,000"


def score_folder(
    run: ScoringRun, place: Place, engine: EngineSettings, price_per_hour: float | None = None
) -> tuple[TallyReport, RunCost]:
    """Score every study into the parts of a folder; what an earlier run has done stays.

    A study that cannot be answered is a row below `failed`. Memory hardly grows with the number of
    studies.

    Args:
        run: what is scored.
        place: a folder or its URL: new, empty, or of the same run.
        engine: where it is computed.
        price_per_hour: of one processor.

    Raises:
        CxrError: as `open_shards` and `run_shards`.
        ManifestError: no study can be predicted.
    """
    started = time.perf_counter()
    shards = open_shards(run, place)
    todo = sorted(set(range(len(shards))) - shards.done())
    before, busy = shards.studies - sum(map(shards.length, todo)), 0.0
    with ProgressBar(total=shards.studies, initial=before, desc="score", unit="study") as bar:
        for result in run_shards(engine, partial(load_scoring, run, shards), todo) if todo else ():
            bar.update(shards.length(result["shard"]))
            busy += result["processor_seconds"]
    report = read_report(shards)
    cost = RunCost(
        engine=engine.name,
        studies=shards.studies - before,
        seconds=time.perf_counter() - started,
        processor_seconds=busy,
        price_per_hour=price_per_hour,
    )
    summary = {
        "studies": shards.studies,
        "answered": report.predicted,
        "failed": report.failed,
        "reasons": report.parts,
        "last_run": cost.to_json(),
    }
    shards.out.write_json(SUMMARY_FILE, summary)
    if not report.predicted:
        raise ManifestError(
            f"no row can be predicted ({report.failed} bad)",
            field=run.source,
            remedy=f"Fix the rows; {shards.out.path(FAILED)} has the reason of each",
        )
    return report, cost


def read_report(shards: Shards) -> TallyReport:
    """Add up what the parts say of their studies."""
    reports = prefetch(
        partial(_report, shards.out), range(len(shards)), ahead=READERS, threads=READERS
    )
    return reduce(TallyReport.plus, reports)


def _report(out: Store, shard: int) -> TallyReport:
    with out.open(part(PREDICTIONS, shard)) as stream:
        return TallyReport.model_validate_json(pq.read_schema(stream).metadata[REPORT])
