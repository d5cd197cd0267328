"""Part `scale`: a monitoring report on windows of up to a million records."""

import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.files import write_json
from cxr_mm.core.record import PredictionRecord
from cxr_mm.core.task import ClinicalFeature, Finding, SourceSpec, SplitSpec, Task
from cxr_mm.core.verdict import EXIT_CODES
from cxr_mm.prediction_log import open_log
from monitoring.reference import freeze, load_reference

SIZES = 10_000, 100_000, 1_000_000
FEATURES, WIDTH, HELDOUT, BATCH = 44, 256, 1000, 5000
DIGEST = "d" * 64
START = datetime(2026, 1, 1, tzinfo=UTC)
SECONDS, MEBIBYTES = 120.0, 2048.0


def wide_task(features: int) -> Task:
    """A made-up question with so many clinical features."""
    return Task(
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
            for i in range(features)
        ),
        licence="none",
        citation="none",
    )


TASK = wide_task(FEATURES)


def measure() -> list[Row]:
    """Rows of seconds and MiB at each size, and what a window ten times as large costs."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        bundle = root / "models" / "bundle"
        write_json(bundle / "bundle.json", {"digest": DIGEST})
        held = list(synthetic_records(HELDOUT, 0))
        freeze(TASK, DIGEST, held, [], ReferenceParams(), bundle.parent / "reference")
        columns = len(load_reference(bundle.parent / "reference").checks)
        written, spent = 0, dict[int, Usage]()
        url = f"sqlite:///{root / 'log.db'}"
        for size in SIZES:
            with open_log(url) as log:
                for start in range(written, size, BATCH):
                    log.add_records(synthetic_records(min(BATCH, size - start), 1 + start))
            written = size
            words = "report", "--bundle", bundle, "--log", url, "--out", root / "out"
            spent[size] = run_process("monitoring", *words, accepted=tuple(EXIT_CODES.values()))
            rows += _rows(size, columns, spent[size])
    growth = spent[SIZES[-1]].wall / spent[SIZES[-2]].wall
    whole = f"{SIZES[-1]:,} studies"
    return [*rows, _row(whole, "time against a tenth of them", growth, 10.0, SIZES[-1])]


def synthetic_records(
    count: int, seed: int, task: Task = TASK, width: int = WIDTH
) -> Iterator[PredictionRecord]:
    """Records of independent normal values, rounded; their names and times begin with the seed.

    Args:
        count: how many.
        seed: of the values.
        task: whose clinical features.
        width: numbers of an image embedding.
    """
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(count, len(task.clinical))).round(2)
    image = rng.normal(size=(count, width))
    chance, quality = rng.random(count).round(4), rng.normal(size=(count, 8)).round(2)
    for i in range(count):
        name, half = f"{seed}.{i}", round(float(chance[i]) / 2, 4)
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
            shares={"finding": {"image": half, "tabular": half}},
            latency_ms=100.0,
        )


def _rows(size: int, columns: int, spent: Usage) -> list[Row]:
    name, last = f"{size:,} studies, {columns} checks", size == SIZES[-1]
    return [
        _row(name, "seconds", spent.wall, SECONDS if last else None, size),
        _row(name, "peak memory, MiB", spent.peak, MEBIBYTES if last else None, size),
    ]


def _row(row: str, metric: str, value: float, must: float | None, n: int) -> Row:
    return Row(
        task="synthetic records", row=row, metric=metric, value=value, must=must, ceiling=True, n=n
    )
