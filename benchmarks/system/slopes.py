"""Part `slopes`: what one study costs when a table is scored, from which docs/scale.md estimates.

Seconds are those of the processor: user and system time, which other work on the machine changes
little.
"""

import io
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from benchmarks.harness.runs import SmallTask, make_small_task
from cxr_mm.data.studies import study_rows
from cxr_mm.imaging.radiograph import read_radiograph
from cxr_mm.inference.shards import STUDIES_FILE
from cxr_mm.models.image_encoder import load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.training.embed import BATCH, image_embeddings

RADIOGRAPH = (3056, 2544)
"""Rows and columns of a common detector."""
READS, IMAGES, NOTES, LISTED = 10, 64, 64, 50_000
"""Times a JPEG is read; images and notes that are embedded; rows that are listed."""
FEW, MANY = 1_000, 4_000
"""Studies of the tables whose difference is the cost of a study."""
SECONDS, BYTES = "processor seconds", "bytes"


def measure() -> list[Row]:
    """Rows of reading, embedding, answering, listing and writing one study."""
    with tempfile.TemporaryDirectory() as name:
        small = make_small_task(Path(name), size=224)
        return [*_inputs(small), *_tables(small)]


def _row(row: str, metric: str, value: float, n: int) -> Row:
    return Row(task="synthetic", row=row, metric=metric, value=value, n=n)


def _inputs(small: SmallTask) -> Iterator[Row]:
    """Rows of one image and one note."""
    jpeg = _jpeg(*RADIOGRAPH)
    name = f"JPEG of {RADIOGRAPH[0]:,} × {RADIOGRAPH[1]:,} pixels"
    yield _row(f"{name}, quality 95", BYTES, len(jpeg), 1)
    seconds = _seconds(lambda: [read_radiograph(jpeg) for _ in range(READS)]) / READS
    yield _row(f"{name}, read and checked", SECONDS, seconds, READS)
    encoder = load_image_encoder(small.paths.image_encoder)
    squares = np.random.default_rng(0).integers(0, 256, (IMAGES, 224, 224), dtype=np.uint8)
    seconds = _seconds(lambda: image_embeddings(encoder, squares)) / IMAGES
    yield _row(f"image, embedded ({encoder.spec.backbone}, 224 px)", SECONDS, seconds, IMAGES)
    notes = [f"Fever and cough for {day} days, crackles on the left." for day in range(NOTES)]
    reader = NoteEncoder.open("packaged", small.params.embed.note_words)
    seconds = _seconds(lambda: reader.embed(notes, BATCH)) / NOTES
    yield _row("note of ten words, embedded (MiniLM)", SECONDS, seconds, NOTES)


def _seconds(work: Callable[[], object]) -> float:
    """Processor seconds of this process, for work that it has done once before."""
    work()
    started = time.process_time()
    work()
    return time.process_time() - started


def _jpeg(rows: int, columns: int) -> bytes:
    """A JPEG of noise that is smooth as a radiograph is."""
    grey = np.random.default_rng(0).integers(0, 256, (rows // 16, columns // 16), dtype=np.uint8)
    stream = io.BytesIO()
    image = Image.fromarray(grey).resize((columns, rows), Image.Resampling.BICUBIC)
    image.save(stream, "JPEG", quality=95)
    return stream.getvalue()


def _tables(small: SmallTask) -> Iterator[Row]:
    """Rows of one study with clinical features alone: listed, answered and written."""
    few, many = (_scored(small, count) for count in (FEW, MANY))
    seconds = (many.user + many.system - few.user - few.system) / (MANY - FEW)
    yield _row("study without image and note, scored", SECONDS, seconds, MANY - FEW)
    yield _row("worker with one thread", "peak memory, MiB", many.peak, MANY)
    out = small.paths.root / str(MANY)
    written = sum(path.stat().st_size for path in (out / "predictions").iterdir())
    yield _row("study, its prediction", BYTES, written / MANY, MANY)
    listed = (out / STUDIES_FILE).stat().st_size
    yield _row("study, its row in studies.parquet", BYTES, listed / MANY, MANY)
    table = _table(small, LISTED)
    started = time.process_time()
    count = sum(1 for _ in study_rows(small.task, table))
    yield _row(
        "study, listed by the driver", SECONDS, (time.process_time() - started) / count, count
    )


def _scored(small: SmallTask, count: int) -> Usage:
    table, out = _table(small, count), small.paths.root / str(count)
    words = "score", "--bundle", small.paths.bundle, "--manifest", table, "--out", out
    return run_process("cxr_mm", *words, environment={"OMP_NUM_THREADS": "1"})


def _table(small: SmallTask, count: int) -> Path:
    """A manifest of so many studies with clinical features alone."""
    short = pd.read_csv(small.source / "manifest.csv", dtype=str, keep_default_na=False)
    short = short.assign(image_path="", note="")
    short = short[(short[list(small.task.clinical_names)] != "").any(axis=1)]
    table = pd.concat([short] * -(-count // len(short)), ignore_index=True).head(count)
    table["study_id"] = [f"study-{number}" for number in range(count)]
    path = small.source / f"{count}.csv"
    table.to_csv(path, index=False)
    return path
