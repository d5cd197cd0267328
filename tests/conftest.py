"""Fixtures that several tests share: the real data, and one small pipeline run to its bundle."""

import os
from dataclasses import dataclass
from pathlib import Path

import pytest

import cxr_mm.models  # noqa: F401  makes torchvision whole before any test imports timm
from cxr_mm.contracts.task import Task
from cxr_mm.params import Params, for_task, load_params
from cxr_mm.paths import DATA_ROOT_VARIABLE, TaskPaths

REPOSITORY = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the real radiograph sets."""
    named = os.environ.get(DATA_ROOT_VARIABLE)
    if not named or not Path(named).is_dir():
        pytest.skip(f"{DATA_ROOT_VARIABLE} names no folder with the real radiographs")
    return Path(named).resolve()


@dataclass(frozen=True)
class Pipeline:
    """A small synthetic task, all of whose stages up to `fuse` have run."""

    task: Task
    params: Params
    paths: TaskPaths


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """160 phantoms at 64 pixels through the real stages."""
    from cxr_mm.data.ingest import ingest
    from cxr_mm.data.split import split
    from cxr_mm.data.tasks import load_task
    from cxr_mm.training.embed import embed
    from cxr_mm.training.fuse import fuse
    from cxr_mm.training.train_image import train_image

    shipped = load_task("synthetic")
    source = shipped.source.model_copy(update={"options": {"studies": 160, "seed": 3}})
    overrides = {"ingest": {"size": 64, "workers": 1}, "fuse": {"inner_folds": 2}}
    task = shipped.model_copy(update={"source": source, "params": overrides})
    params = for_task(load_params(REPOSITORY / "params.yaml"), task)
    paths = TaskPaths(task.name, tmp_path_factory.mktemp("project"))
    ingest(task, params, paths, paths.root)
    for stage in (split, train_image, embed, fuse):
        stage(task, params, paths)
    return Pipeline(task, params, paths)


@pytest.fixture(scope="session")
def bundle_folder(pipeline: Pipeline) -> Path:
    """The bundle of the small pipeline; never to be changed in place."""
    return pipeline.paths.bundle
