"""Part `distributed`: `score` on Ray against the local engine, with processes killed on the way.

Run as a module, it is a driver alone: the table is listed and its shards go through Ray, whose
workers read their rows and run no model.
"""

import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import psutil
import pyarrow.parquet as pq

from benchmarks.harness.noise import Noise, train_on_noise
from benchmarks.harness.parts import Row
from benchmarks.harness.pieces import measure_pieces
from benchmarks.harness.runs import BASE, make_small_task
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.shards.store import Store
from cxr_mm.core.shards.work import Work
from cxr_mm.inference.engine import EngineSettings, run_shards
from cxr_mm.inference.shards import (
    Shards,
    open_shards,
    scoring_run,
)

STUDIES, KILLS, WORKERS = 20_000, 10, 2
NOTES, IMAGES = 0.1, 0.01
"""Shares of the studies, at the start of the table, with a note and an image; all have clinical
features."""
SHORT, LONG = 10_000, 1_000_000
"""Rows of the tables at which the driver's memory is compared."""
TWICE, SPEED, FLAT = 0.02, 0.9, 1.1
FACTS: dict[str, Any] = {"task": "synthetic, small_cnn at 32 px"}
STALLED, LEFT = 300.0, 20.0
"""Seconds without a new part after which a run counts as stalled, and within which the processes of
a killed driver end."""


class Killed(NamedTuple):
    """What a run with kills came to."""

    kills: int
    lost: int
    doubled: int
    twice: int
    """Studies that may have been answered twice: those of the shards at work when killed."""


WORK = BASE.absolute() / "distributed"
"""Folder in which the pieces work."""


def measure() -> list[Row]:
    """Rows of all pieces; a run that was stopped goes on with the pieces that it lacks."""
    return measure_pieces(
        WORK,
        {
            "engines": compare_engines,
            "kills": kill_processes,
            "driver": compare_drivers,
            "training": training_rates,
        },
    )


class Setting(NamedTuple):
    """What every piece scores with.

    Args:
        bundle: of a small model.
        manifest: a table of few studies.
        folder: where the pieces work.
    """

    bundle: Path
    manifest: Path
    folder: Path


def open_setting(folder: Path) -> Setting:
    """The small model and its studies; made by the first piece that asks for them."""
    task = folder / "task"
    paths = TaskPaths("synthetic", task)
    if not paths.bundle.is_dir():
        shutil.rmtree(task, ignore_errors=True)
        make_small_task(task, size=32, backbone="small_cnn", image=96)
    return Setting(paths.bundle, paths.ingest / "source" / "manifest.csv", folder)


def compare_engines(folder: Path) -> Iterator[Row]:
    """Rows of equality and speed: two workers on Ray against the local engine on all cores."""
    setting = open_setting(folder)
    table = write_table(setting, STUDIES)
    local, ray = (fresh_folder(folder / way) for way in ("local", "ray"))
    score(setting, table, local, environment={"OMP_NUM_THREADS": str(os.cpu_count())})
    score(setting, table, ray, *on_ray(), environment={"OMP_NUM_THREADS": "1"})
    differing = differing_parts(local, ray)
    yield _row("parts on Ray that differ from the local engine's", "parts", differing, 0)
    yield _row(
        f"{WORKERS} workers on Ray against one local process with {os.cpu_count()} threads",
        "rate, as a multiple",
        rate(ray) / rate(local),
        SPEED,
        ceiling=False,
    )


def kill_processes(folder: Path) -> list[Row]:
    """Rows of a run on Ray whose worker or driver is killed again and again."""
    setting, out = open_setting(folder), fresh_folder(folder / "killed")
    found = kill_and_resume(setting, write_table(setting, STUDIES), out)
    differing = differing_parts(folder / "local", out)
    return [
        _row("parts after the kills that differ", "parts", differing, 0),
        _row(f"{found.kills} kills of worker and driver", "kills", found.kills),
        _row("studies lost", "studies", found.lost, 0),
        _row("studies doubled", "studies", found.doubled, 0),
        _row("done twice at most", "share of studies", found.twice / STUDIES, TWICE),
    ]


def compare_drivers(folder: Path) -> list[Row]:
    """Rows of the memory of the process that gives out the work, at few and at many rows."""
    setting = open_setting(folder)
    short, long = (driver_peak(setting, count) for count in (SHORT, LONG))
    return [
        _row(f"driver at {LONG:,} rows", f"peak against {SHORT:,}", long / short, FLAT),
        _row(f"driver at {LONG:,} rows", "peak memory, MiB", long),
    ]


def fresh_folder(folder: Path) -> Path:
    """A folder without what a run that was stopped has left in it."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


def _row(
    row: str, metric: str, value: float, must: float | None = None, ceiling: bool = True
) -> Row:
    n = LONG if row.startswith("driver") else STUDIES
    return Row(row=row, metric=metric, value=value, must=must, ceiling=ceiling, n=n, **FACTS)


def write_table(setting: Setting, count: int) -> Path:
    """A manifest of so many studies, each an id of its own over the same few."""
    short = pd.read_csv(setting.manifest, dtype=str, keep_default_na=False)
    short = short[(short["image_path"] != "") & (short["note"] != "")]
    table = pd.concat([short] * -(-count // len(short)), ignore_index=True).head(count)
    table["study_id"] = [f"study-{number}" for number in range(count)]
    table.loc[table.index >= NOTES * count, "note"] = ""
    table.loc[table.index >= IMAGES * count, "image_path"] = ""
    path = setting.manifest.with_name(f"{count}.csv")  # its image paths are relative
    table.to_csv(path, index=False)
    return path


def on_ray() -> tuple[str, ...]:
    """Options of `score` for Ray."""
    return "--engine", "ray", "--workers", str(WORKERS)


def command(setting: Setting, table: Path, out: Path, *options: str) -> list[str]:
    """Words that score a table into a folder."""
    words = "score", "--bundle", setting.bundle, "--manifest", table, "--out", out
    return [sys.executable, "-m", "cxr_mm", *map(str, words), *options]


def score(
    setting: Setting, table: Path, out: Path, *options: str, environment: dict[str, str]
) -> None:
    """Score a table in a process of its own."""
    subprocess.run(
        command(setting, table, out, *options),
        check=True,
        stdout=subprocess.DEVNULL,
        env=os.environ | environment,
    )


def parts(out: Path) -> dict[str, Path]:
    """Files of predictions and failures of a folder by their path in it."""
    return {str(p.relative_to(out)): p for p in out.glob("*/part-*.parquet")}


def differing_parts(one: Path, other: Path) -> int:
    """Number of parts that are not the same bytes in both folders."""
    first, second = parts(one), parts(other)
    return len(first.keys() ^ second.keys()) + sum(
        first[name].read_bytes() != second[name].read_bytes() for name in first.keys() & second
    )


def rate(out: Path) -> float:
    """Studies a second from the first part to the last, start and loading left out."""
    files = sorted((out / "predictions").glob("*.parquet"), key=lambda p: p.stat().st_mtime_ns)
    seconds = (files[-1].stat().st_mtime_ns - files[0].stat().st_mtime_ns) / 1e9
    studies: int = sum(pq.read_metadata(file).num_rows for file in files[1:])
    return studies / seconds


def kill_and_resume(setting: Setting, table: Path, out: Path) -> Killed:
    """Score on Ray; kill the driver or a worker at random moments, and start again until done."""
    rng, twice = random.Random(0), 0
    run = _start(setting, table, out)
    for number, share in enumerate(sorted(rng.random() for _ in range(KILLS))):
        _await_share(run, out, share)
        workers = _workers(run)
        if number % 2:
            workers[0].kill()
            twice += Shards(Store.at(out), STUDIES).size
        else:
            _kill_driver(run)
            twice += len(workers) * Shards(Store.at(out), STUDIES).size
            run = _start(setting, table, out)
    if code := run.wait():
        raise StageError(f"score ended with {code}", field=str(out))
    ids = pd.concat(pd.read_parquet(path, columns=["study_id"]) for path in parts(out).values())
    answered = ids["study_id"].nunique()
    return Killed(KILLS, STUDIES - answered, len(ids) - answered, twice)


def _start(setting: Setting, table: Path, out: Path) -> psutil.Popen:
    words = command(setting, table, out, *on_ray())
    return psutil.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _await_share(run: psutil.Popen, out: Path, share: float) -> None:
    """Wait until a share of the shards is done, and workers are there to be killed.

    Raises:
        StageError: the run ended before, or nothing happened for long.
    """
    done, since = -1, time.monotonic()
    shards = Shards(Store.at(out), STUDIES)
    while (count := len(shards.done())) < share * len(shards) or not _workers(run):
        if count > done:
            done, since = count, time.monotonic()
        if run.poll() is not None or time.monotonic() - since > STALLED:
            raise StageError(f"the run ended or stalled after {count} parts", field=str(out))
        time.sleep(0.05)


def _workers(run: psutil.Popen) -> list[psutil.Process]:
    """Processes that run actors."""
    found = []
    for process in run.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "MapWorker" in process.name() + " ".join(process.cmdline()):
                found.append(process)
    return found


def _kill_driver(run: psutil.Popen) -> None:
    """Kill the driver alone; what it started ends by itself, or is ended here."""
    started = run.children(recursive=True)
    run.kill()
    run.wait()
    for process in psutil.wait_procs(started, timeout=LEFT)[1]:
        with suppress(psutil.NoSuchProcess):
            process.kill()


def driver_peak(setting: Setting, count: int) -> float:
    """Peak memory in MiB of a driver of so many rows."""
    table, out = write_table(setting, count), fresh_folder(setting.folder / f"driver-{count}")
    words = map(str, (setting.bundle, table, out))
    done = subprocess.run(
        [sys.executable, "-m", __name__, *words], check=True, stdout=subprocess.PIPE, text=True
    )
    return float(done.stdout)


LEARNT = Noise(200, 128, "tf_efficientnet_lite0", 32)
EPOCHS = 1, 3
"""Of the two trainings whose difference is the time of the images alone."""
TRAININGS = {
    "one process, one thread": (1, 1),
    "one process, a thread for each core": (1, 0),
    "two processes (gloo), one thread each": (2, 1),
}
"""Way to train → devices, threads of each; 0 for as many as cores."""


def training_rates(folder: Path) -> Iterator[Row]:
    """Rows of the images a second that an encoder learns from, start and end left out."""
    for number, (way, (devices, threads)) in enumerate(TRAININGS.items()):
        short, long = (
            train_on_noise(fresh_folder(folder / f"{number}-{n}"), LEARNT, n, devices, threads).wall
            for n in EPOCHS
        )
        yield Row(
            task=f"{LEARNT.backbone} at {LEARNT.side} px",
            row=f"train_image: {way}",
            metric="images a second",
            value=(EPOCHS[1] - EPOCHS[0]) * LEARNT.learnt / (long - short),
            n=LEARNT.learnt,
        )


def _read_rows(shards: Shards) -> Work:
    def work(numbers: Sequence[int]) -> Iterator[dict[str, Any]]:
        for number in numbers:
            yield {"shard": number, "rows": sum(1 for _ in shards.rows([number]))}

    return work


def _drive(bundle: str, table: str, out: str) -> None:
    """List a table, send its shards through Ray and print the peak memory of this process."""
    shards = open_shards(scoring_run(Path(bundle), Path(table)), Path(out))
    settings = EngineSettings(name="ray", workers=WORKERS)
    results = run_shards(settings, partial(_read_rows, shards), range(len(shards)))
    assert sum(result["rows"] for result in results) == shards.studies
    status = Path("/proc/self/status").read_text(encoding="ascii")
    print(int(status.partition("VmHWM:")[2].split()[0]) / 1024)


if __name__ == "__main__":
    _drive(*sys.argv[1:])
