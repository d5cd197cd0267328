"""Part `memory`: peak memory of `cxr-mm score` on a long manifest against a short one.

A tiny network at 32 pixels: how much is kept of what was read and answered does not depend on it.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.harness.parts import Row
from benchmarks.harness.runs import SmallTask, make_small_task
from benchmarks.harness.timing import device
from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.files import write_json
from cxr_mm.core.record import PredictionRecord
from cxr_mm.core.task import ClinicalFeature, Finding, SourceSpec, SplitSpec, Task
from cxr_mm.prediction_log import open_log
from monitoring.reference import freeze, load_reference

COMMAND = "make benchmark PART=memory"
SHORT, LONG = 2_000, 20_000
FLAT = 1.05


def measure() -> list[Row]:
    """One row: peak resident memory on 20,000 studies as a multiple of that on 2,000."""
    with tempfile.TemporaryDirectory() as name:
        small = make_small_task(
            Path(name), size=32, backbone="small_cnn", image=96, without=["note"]
        )
        started = time.perf_counter()
        short, long = (peak_memory(small, count) for count in (SHORT, LONG))
        return [
            Row(
                table="memory",
                task="synthetic, small_cnn at 32 px",
                row=f"score on {LONG:,} studies",
                metric=f"peak memory against {SHORT:,} studies",
                value=long / short,
                must=FLAT,
                ceiling=True,
                n=LONG,
                seconds=time.perf_counter() - started,
                device=device(),
                command=COMMAND,
            )
        ]


def peak_memory(small: SmallTask, count: int) -> int:
    """Peak resident memory of a process that scores so many studies, in the kernel's unit."""
    manifest = small.source / f"{count}.csv"
    long_manifest(small.source / "manifest.csv", count).to_csv(manifest, index=False)
    out = small.paths.root / f"{count}.parquet"
    words = ["--bundle", small.paths.bundle, "--manifest", manifest, "--out", out]
    child = subprocess.Popen([sys.executable, "-m", "cxr_mm.cli", "score", *map(str, words)])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise subprocess.CalledProcessError(child.returncode, child.args)
    return usage.ru_maxrss


def long_manifest(short: Path, count: int) -> pd.DataFrame:
    """So many studies, each an id of its own, that name the same few images again and again."""
    rows = pd.read_csv(short, dtype=str, keep_default_na=False)
    rows = rows[rows["image_path"] != ""]
    table = pd.concat([rows] * -(-count // len(rows)), ignore_index=True).head(count)
    return table.assign(study_id=[f"study-{number}" for number in range(count)])


SCALE_COMMAND = "make benchmark PART=scale"
SIZES = 10_000, 100_000, 1_000_000
FEATURES, WIDTH, HELDOUT, BATCH = 44, 256, 1000, 5000
DIGEST = "d" * 64
START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS, MEBIBYTES = 120.0, 2048.0
TASK = Task(
    name="wide",
    title="A wide question",
    problem="binary",
    findings=(Finding(name="finding", title="Finding"),),
    source=SourceSpec(kind="manifest_csv"),
    split=SplitSpec(protocol="patient"),
    clinical=tuple(
        ClinicalFeature(
            name=f"f{i}", title=f"Feature {i}", type="number", unit="1", minimum=-9, maximum=9
        )
        for i in range(FEATURES)
    ),
    licence="none",
    citation="none",
)


def measure_scale() -> list[Row]:
    """Rows of seconds and MiB at each size, and what a window ten times as large costs."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        bundle = root / "models" / "bundle"
        write_json(bundle / "bundle.json", {"digest": DIGEST})
        held = list(_records(HELDOUT, 0))
        freeze(TASK, DIGEST, held, [], ReferenceParams(), bundle.parent / "reference")
        columns = len(load_reference(bundle.parent / "reference").checks)
        written, spent = 0, {}
        url = f"sqlite:///{root / 'log.db'}"
        for size in SIZES:
            with open_log(url) as log:
                for start in range(written, size, BATCH):
                    log.add_records(_records(min(BATCH, size - start), 1 + start))
            written = size
            spent[size] = _report(bundle, url, root / "out")
            rows += _rows(size, columns, *spent[size])
    growth = spent[SIZES[-1]][0] / spent[SIZES[-2]][0]
    rows.append(
        _row(f"{SIZES[-1]:,} studies", "time against a tenth of them", growth, 10.0, SIZES[-1])
    )
    return rows


def _records(count: int, seed: int) -> Iterator[PredictionRecord]:
    rng = np.random.default_rng(seed)
    values, image = rng.normal(size=(count, FEATURES)), rng.normal(size=(count, WIDTH))
    chance, quality = rng.random(count), rng.normal(size=(count, 8))
    for i in range(count):
        name = f"{seed}.{i}"
        yield PredictionRecord(
            record_id=name,
            created_at=START + timedelta(seconds=seed + i),
            task=TASK.name,
            model=TASK.name,
            digest=DIGEST,
            study_hash=name,
            patient_hash=name,
            modalities=("image", "tabular"),
            view="PA",
            clinical={f"f{k}": float(v) for k, v in enumerate(values[i])},
            quality={f"q{k}": float(v) for k, v in enumerate(quality[i])},
            image_embedding=tuple(image[i].tolist()),
            probabilities={"finding": float(chance[i])},
            positives={"finding": bool(chance[i] > 0.5)},
            shares={"finding": {"image": chance[i] / 2, "tabular": chance[i] / 2}},
            latency_ms=100.0,
        )


def _report(bundle: Path, url: str, out: Path) -> tuple[float, float]:
    """Seconds and peak resident memory (MiB) of one report."""
    words = ["report", "--bundle", bundle, "--log", url, "--out", out]
    started = time.perf_counter()
    child = subprocess.Popen([sys.executable, "-m", "monitoring", *map(str, words)])
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode == 2:
        raise subprocess.CalledProcessError(child.returncode, child.args)
    return time.perf_counter() - started, usage.ru_maxrss / 1024


def _rows(size: int, columns: int, seconds: float, memory: float) -> list[Row]:
    name = f"{size:,} studies, {columns} checks"
    last = size == SIZES[-1]
    return [
        _row(name, "seconds", seconds, SECONDS if last else None, size),
        _row(name, "peak memory, MiB", memory, MEBIBYTES if last else None, size),
    ]


def _row(row: str, metric: str, value: float, must: float | None, n: int) -> Row:
    return Row(
        table="scale",
        task="made up",
        row=row,
        metric=metric,
        value=value,
        must=must,
        ceiling=True,
        n=n,
        device=device(),
        command=SCALE_COMMAND,
    )
