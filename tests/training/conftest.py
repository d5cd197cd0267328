"""A task whose finding is a bright spot, as ingest and split would have left it."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mm.core.config import (
    EmbedParams,
    EvaluateParams,
    ExplainParams,
    FuseParams,
    IngestParams,
    Params,
    ReferenceParams,
    SplitParams,
    TrainImageParams,
)
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Finding, SourceSpec, SplitSpec, Task

SIDE, STUDIES = 32, 120


def _task(**changes) -> Task:
    result = {
        "name": "spot",
        "title": "A bright spot",
        "problem": "binary",
        "findings": (Finding(name="spot", title="Spot"),),
        "source": SourceSpec(kind="synthetic"),
        "split": SplitSpec(protocol="patient"),
        "licence": "none",
        "citation": "none",
    }
    return Task(**{**result, **changes})


def _params(**changes) -> Params:
    result = {
        "backbone": "small_cnn",
        "weights": "none",
        "trainable": "all",
        "epochs": 2,
        "batch_size": 16,
        "dropout": 0.1,
        "precision": "fp32",
        "accelerator": "cpu",
        "augment": "light",
    }
    return Params(
        tasks=("synthetic",),
        ingest=IngestParams(size=SIDE),
        split=SplitParams(),
        train_image=TrainImageParams(**{**result, **changes}),
        embed=EmbedParams(),
        fuse=FuseParams(),
        evaluate=EvaluateParams(),
        explain=ExplainParams(),
        reference=ReferenceParams(),
    )


@pytest.fixture(autouse=True, scope="module")
def single_threaded():
    """Tiny networks only wait for one another's threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def spot_task():
    """Makes the task, with changes."""
    return _task


@pytest.fixture
def spot_params():
    """Makes parameters for a short training, with changes to `train_image`."""
    return _params


@pytest.fixture
def spots(tmp_path: Path) -> TaskPaths:
    """Ingest and split of 120 studies, two to a patient; the last has no image."""
    rng = np.random.default_rng(0)
    label = rng.integers(0, 2, STUDIES).astype(float)
    pixels = rng.integers(0, 90, (STUDIES - 1, SIDE, SIDE)).astype(np.uint8)
    for row in np.flatnonzero(label[:-1]):
        y, x = rng.integers(4, SIDE - 12, 2)
        pixels[row, y : y + 8, x : x + 8] += 120
    label[5] = np.nan
    group = [f"p{n // 2}" for n in range(STUDIES)]
    part = np.where(np.arange(STUDIES) < 80, "train", "val")
    part[-10:-1] = "test"
    part[-1] = "train"
    study = [f"s{n}" for n in range(STUDIES)]
    paths = TaskPaths("spot", tmp_path)
    paths.ingest.mkdir(parents=True)
    paths.split.mkdir(parents=True)
    np.save(paths.pixels, pixels)
    pd.DataFrame(
        {
            "study_id": study,
            "patient_id": group,
            "group": group,
            "image_path": None,
            "view": None,
            "site": None,
            "publisher": None,
            "part": None,
            "note": None,
            "pixel_row": [*range(STUDIES - 1), -1],
            "finding.spot": label,
        }
    ).to_parquet(paths.manifest)
    pd.DataFrame({"study_id": study, "group": group, "part": part, "fold": 0}).to_parquet(
        paths.split / "split.parquet"
    )
    return paths
