"""Part `memory`: peak memory of `cxr-mm score` and `train-image` at ten times the studies."""

import tempfile
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.harness.noise import Noise, train_on_noise
from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from benchmarks.harness.runs import SmallTask, make_small_task

SHORT, LONG = 2_000, 20_000
FLAT = 1.05
LEARNT = [Noise(count, 64, "small_cnn", 64) for count in (3_000, 30_000)]
FLAT_TRAINING = 1.1


def measure() -> list[Row]:
    """Rows of scoring and of training."""
    with tempfile.TemporaryDirectory() as name:
        return [*_scoring_rows(Path(name)), *_training_rows(Path(name))]


def _training_rows(folder: Path) -> list[Row]:
    """Peak resident memory of a training as a multiple, and by image."""
    short, long = (train_on_noise(folder / str(each.images), each) for each in LEARNT)
    few, many = (each.images for each in LEARNT)
    facts: dict[str, Any] = {
        "task": "noise, small_cnn at 64 px",
        "row": f"train_image on {many:,} images",
        "n": many,
    }
    return [
        Row(
            metric=f"peak memory against {few:,} images",
            value=long.peak / short.peak,
            must=FLAT_TRAINING,
            ceiling=True,
            **facts,
        ),
        Row(
            metric="bytes for each further image",
            value=(long.peak - short.peak) * 2**20 / (many - few),
            **facts,
        ),
    ]


def _scoring_rows(folder: Path) -> list[Row]:
    """Peak resident memory on 20,000 studies as a multiple of that on 2,000."""
    small = make_small_task(folder, size=32, backbone="small_cnn", image=96, without=["note"])
    short, long = (scoring(small, count) for count in (SHORT, LONG))
    return [
        Row(
            task="synthetic, small_cnn at 32 px",
            row=f"score on {LONG:,} studies",
            metric=f"peak memory against {SHORT:,} studies",
            value=long.peak / short.peak,
            must=FLAT,
            ceiling=True,
            n=LONG,
            seconds=short.wall + long.wall,
        )
    ]


def scoring(small: SmallTask, count: int) -> Usage:
    """Cost of a process that scores so many studies."""
    manifest = small.source / f"{count}.csv"
    long_manifest(small.source / "manifest.csv", count).to_csv(manifest, index=False)
    out = small.paths.root / f"{count}.parquet"
    words = "score", "--bundle", small.paths.bundle, "--manifest", manifest, "--out", out
    return run_process("cxr_mm", *words)


def long_manifest(short: Path, count: int) -> pd.DataFrame:
    """So many studies, each an id of its own, that name the same few images again and again."""
    rows = pd.read_csv(short, dtype=str, keep_default_na=False)
    rows = rows[rows["image_path"] != ""]
    table = pd.concat([rows] * -(-count // len(rows)), ignore_index=True).head(count)
    return table.assign(study_id=[f"study-{number}" for number in range(count)])
