"""Training of an image encoder: images a second by two processes, and memory at ten times the data.

Part `distributed` has these rows. The images are noise, the parameters as shipped but for the size.
"""

import os
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from benchmarks.harness.parts import Row
from benchmarks.harness.process import Usage, run_process
from cxr_mm.core.config import PARAMS_FILE
from cxr_mm.core.files import write_text
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task
from cxr_mm.data.manifest import REQUIRED, finding_column

NAME = "noise"
FLAT = 1.1


class Noise(NamedTuple):
    """Images of noise, a tenth of them for validation, and a network that learns from them."""

    images: int
    side: int
    backbone: str
    batch_size: int


SHORT, LONG = (Noise(count, 64, "small_cnn", 64) for count in (3_000, 30_000))
SPEED = Noise(200, 128, "tf_efficientnet_lite0", 32)
EPOCHS = 1, 3
"""Of the two trainings whose difference is the time of the images alone."""
WAYS = {
    "one process, one thread": (1, 1),
    "one process, a thread for each core": (1, 0),
    "two processes (gloo), one thread each": (2, 1),
}
"""Way → devices, threads of each; 0 for as many as cores."""


def training_rows() -> list[Row]:
    """Rows of speed and of memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        speeds = {way: _speed(folder / str(n), *WAYS[way]) for n, way in enumerate(WAYS)}
        short, long = (_train(folder / str(each.images), each).peak for each in (SHORT, LONG))
    facts: dict[str, Any] = {"task": f"{SPEED.backbone} at {SPEED.side} px", "n": SPEED.images}
    alone, *_, together = speeds.values()
    memory: dict[str, Any] = {"task": f"{LONG.backbone} at {LONG.side} px", "n": LONG.images}
    further = (long - short) * 2**20 / (LONG.images - SHORT.images)
    return [
        *(
            Row(row=f"train_image: {way}", metric="images a second", value=value, **facts)
            for way, value in speeds.items()
        ),
        Row(
            row="train_image: two processes",
            metric="rate against one thread",
            value=together / alone,
            **facts,
        ),
        Row(
            row=f"train_image on {LONG.images:,} images",
            metric=f"peak memory against {SHORT.images:,}",
            value=long / short,
            must=FLAT,
            ceiling=True,
            **memory,
        ),
        Row(
            row="train_image: each further image",
            metric="bytes of peak memory",
            value=further,
            **memory,
        ),
    ]


def _speed(folder: Path, devices: int, threads: int) -> float:
    """Images a second, start and end of the processes left out."""
    short, long = (_train(folder / str(n), SPEED, n, devices, threads).wall for n in EPOCHS)
    return (EPOCHS[1] - EPOCHS[0]) * SPEED.images * 0.9 / (long - short)


def _train(
    folder: Path, noise: Noise, epochs: int = 1, devices: int = 1, threads: int = 1
) -> Usage:
    """Cost of the stage in a process of its own."""
    folder.mkdir(parents=True)
    params = {
        "backbone": noise.backbone,
        "weights": "none",
        "trainable": "all",
        "batch_size": noise.batch_size,
        "epochs": epochs,
        "devices": devices,
        "accelerator": "cpu",
        "precision": "fp32",
    }
    write_project(folder, noise, params)
    count = str(threads or os.cpu_count())
    return run_process(
        "cxr_mm", "train-image", NAME, folder=folder, environment={"OMP_NUM_THREADS": count}
    )


def write_project(folder: Path, noise: Noise, params: dict[str, Any]) -> None:
    """Task, parameters and what `ingest` and `split` leave."""
    task = Task(
        name=NAME,
        title="Noise",
        problem="binary",
        findings=(Finding(name="finding", title="Finding"),),
        source=SourceSpec(kind="synthetic"),
        split=SplitSpec(protocol="patient"),
        licence="none",
        citation="none",
        params={"train_image": params, "ingest": {"size": noise.side}},
    )
    dumped = yaml.safe_dump(task.model_dump(mode="json", exclude_defaults=True))
    write_text(folder / "tasks" / f"{NAME}.yaml", dumped)
    write_text(folder / PARAMS_FILE, PARAMS_FILE.read_text(encoding="utf-8"))
    paths, rng = TaskPaths(NAME, folder), np.random.default_rng(0)
    for each in (paths.ingest, paths.split):
        each.mkdir(parents=True)
    pixels = np.lib.format.open_memmap(
        paths.pixels, "w+", np.uint8, (noise.images, noise.side, noise.side)
    )
    for square in pixels:
        square[:] = rng.integers(0, 256, square.shape)
    ids = [f"study-{number}" for number in range(noise.images)]
    manifest = pd.DataFrame(
        dict.fromkeys(REQUIRED)
        | dict.fromkeys(("study_id", "patient_id", "group"), ids)
        | {"note": [f"Note of {each}. " * 20 for each in ids], "pixel_row": range(noise.images)}
        | {finding_column("finding"): rng.integers(0, 2, noise.images).astype(float)}
    )
    manifest.to_parquet(paths.manifest)
    part = np.where(np.arange(noise.images) < 0.9 * noise.images, "train", "val")
    split = manifest[["study_id", "group"]].assign(part=part, fold=0)
    split.to_parquet(paths.split / "split.parquet")
