"""Part `memory`: peak memory of `cxr-mm score` on a long manifest against a short one."""

import tempfile
from pathlib import Path

import pandas as pd

from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from benchmarks.harness.runs import SmallTask, make_small_task

SHORT, LONG = 2_000, 20_000
FLAT = 1.05


def measure() -> list[Row]:
    """One row: peak resident memory on 20,000 studies as a multiple of that on 2,000."""
    with tempfile.TemporaryDirectory() as name:
        small = make_small_task(
            Path(name), size=32, backbone="small_cnn", image=96, without=["note"]
        )
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
