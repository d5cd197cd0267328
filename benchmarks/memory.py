"""Part `memory`: peak memory of `cxr-mm score` on a long manifest against a short one.

A tiny network at 32 pixels: how much is kept of what was read and answered does not depend on it.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd

from benchmarks.rounds import device
from benchmarks.rows import Row
from benchmarks.small_task import SmallTask, make_small_task

COMMAND = "make benchmark PART=memory"
SHORT, LONG = 2_000, 20_000
FLAT = 1.05


def measure() -> list[Row]:
    """One row: peak resident memory on 20,000 studies as a multiple of that on 2,000."""
    with tempfile.TemporaryDirectory() as name:
        small = make_small_task(
            Path(name), size=32, backbone="small_cnn", film=96, without=["note"]
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
    """So many studies, each an id of its own, that name the same few films again and again."""
    rows = pd.read_csv(short, dtype=str, keep_default_na=False)
    rows = rows[rows["image_path"] != ""]
    table = pd.concat([rows] * -(-count // len(rows)), ignore_index=True).head(count)
    return table.assign(study_id=[f"study-{number}" for number in range(count)])
