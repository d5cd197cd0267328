"""Noise: a project whose image encoder learns from images of noise, as large as is wanted."""

import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import yaml

from benchmarks.harness.process import Usage, run_process
from cxr_mm.core.config import PARAMS_FILE
from cxr_mm.core.files import write_text
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task
from cxr_mm.data.manifest import REQUIRED, finding_column

NAME = "noise"


class Noise(NamedTuple):
    """Images of noise, a tenth of them for validation, and a network that learns from them."""

    images: int
    side: int
    backbone: str
    batch_size: int

    @property
    def learnt(self) -> int:
        """Images for training; the others are for validation."""
        return self.images - self.images // 10


def train_on_noise(
    folder: Path, noise: Noise, epochs: int = 1, devices: int = 1, threads: int = 1
) -> Usage:
    """Cost of `train-image` in a process of its own, which starts one for each further device.

    Args:
        folder: to make, for the project.
        noise: what is learnt from.
        epochs, devices: as of the stage.
        threads: of each process; 0 for as many as cores.
    """
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
    part = np.where(np.arange(noise.images) < noise.learnt, "train", "val")
    split = manifest[["study_id", "group"]].assign(part=part, fold=0)
    split.to_parquet(paths.split / "split.parquet")
