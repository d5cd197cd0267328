"""Fixtures that several tests share: the real data, a small pipeline run to its bundle, and a
PostgreSQL of our own."""

import gc
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
import yaml
from filelock import FileLock

import cxr_mm.models.torchvision_compat  # noqa: F401  before any test imports timm
from benchmarks.harness.cluster import PROGRAMS, Cluster
from cxr_mm.core.allocator import keep_freed_memory
from cxr_mm.core.config import Params, for_task, load_params
from cxr_mm.core.paths import DATA_ROOT_VARIABLE, TaskPaths
from cxr_mm.core.task import Task

REPOSITORY = Path(__file__).parent.parent
SMALL = {
    "evaluate": {"bootstrap": 100, "characteristics": ["sex", "view"]},
    "explain": {"gallery": 0, "studies": 0, "slow_studies": 0, "localisation": 0, "importance": 1},
    "reference": {
        "components": 2,
        "window_sizes": [10, 25],
        "false_alarm_rate": 0.01,
        "newest_studies": 60,
    },
}
"""Parameters that make the stages after `fuse` quick."""


keep_freed_memory()  # as every program that runs a network does
gc.disable()  # until all tests are imported


def pytest_collection_finish() -> None:
    """Keep what imports made out of every collection to come: a tenth of the tests' time."""
    gc.freeze()
    gc.enable()


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds the real radiograph sets."""
    named = os.environ.get(DATA_ROOT_VARIABLE)
    if not named or not Path(named).is_dir():
        pytest.skip(f"{DATA_ROOT_VARIABLE} names no folder with the real radiographs")
    return Path(named).resolve()


def made_once(factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """A folder of this test process's own, which the first process makes and the others copy."""
    own, shared = factory.mktemp(name) / "project", factory.getbasetemp().parent / name
    if "PYTEST_XDIST_WORKER" not in os.environ:
        make(own)
        return own
    with FileLock(f"{shared}.lock"):
        if shared.exists():
            shutil.copytree(shared, own)
        else:
            make(own)
            shutil.copytree(own, shared.with_suffix(".part"))
            shared.with_suffix(".part").rename(shared)
    return own


@dataclass(frozen=True)
class Pipeline:
    """A small synthetic task, all of whose stages up to `fuse` have run."""

    task: Task
    params: Params
    paths: TaskPaths


@pytest.fixture(scope="session")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    """160 phantoms at 64 pixels through the real stages."""
    from cxr_mm.core.task import load_task
    from cxr_mm.data.ingest import ingest
    from cxr_mm.data.split import split
    from cxr_mm.training.embed import embed
    from cxr_mm.training.fuse import fuse
    from cxr_mm.training.train_image import train_image

    shipped = load_task("synthetic")
    source = shipped.source.model_copy(update={"options": {"studies": 160, "seed": 3}})
    overrides = {
        "ingest": {"size": 64, "workers": 1},
        "fuse": {"inner_folds": 2, "gate_images": 40},
    }
    task = shipped.model_copy(update={"source": source, "params": overrides})
    params = for_task(load_params(REPOSITORY / "params.yaml"), task)

    def make(root: Path) -> None:
        paths = TaskPaths(task.name, root)
        ingest(task, params, paths, root)
        for stage in (split, train_image, embed, fuse):
            stage(task, params, paths)

    return Pipeline(
        task, params, TaskPaths(task.name, made_once(tmp_path_factory, "pipeline", make))
    )


@pytest.fixture(scope="session")
def folds_project(pipeline: Pipeline, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with the small task in folds, since a reference needs more studies than one test
    has: its bundle, its reference, and all that the pipeline needs to run again. To be copied."""
    from cxr_mm.data.split import split
    from cxr_mm.training.embed import embed
    from cxr_mm.training.fuse import fuse
    from cxr_mm.training.train_image import train_image
    from monitoring.reference import reference

    result = pipeline.task.model_dump(mode="json")
    result |= {"split": {"protocol": "folds", "folds": 3}, "params": result["params"] | SMALL}
    task = Task.model_validate(result)
    params = for_task(load_params(REPOSITORY / "params.yaml"), task)

    def make(root: Path) -> None:
        paths = TaskPaths(task.name, root)
        shutil.copytree(pipeline.paths.ingest, paths.ingest)
        for stage in (split, train_image, embed, fuse, reference):
            stage(task, params, paths)
        (root / "tasks").mkdir()
        (root / "tasks" / "synthetic.yaml").write_text(yaml.safe_dump(result))
        for name in ("params.yaml", "dvc.yaml", ".dvcignore"):
            shutil.copy(REPOSITORY / name, root / name)

    return made_once(tmp_path_factory, "folds", make)


@pytest.fixture(scope="session")
def bundle_folder(pipeline: Pipeline) -> Path:
    """The bundle of the small pipeline; never to be changed in place."""
    return pipeline.paths.bundle


def started_cluster():
    """A cluster that runs, or a skip with the reason why there is none."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if missing:
        pytest.skip(f"PostgreSQL's {missing[0]} is not on the PATH")
    cluster = Cluster()
    cluster.start()
    return cluster


@pytest.fixture(scope="session")
def cluster():
    created = started_cluster()
    yield created
    created.remove()


@pytest.fixture
def postgresql(cluster):
    """The URL of an empty database."""
    with cluster.database() as created:
        yield created


@pytest.fixture(scope="module")
def s3():
    """Address of an S3 server on loopback with an empty bucket `radiographs`; the environment has
    its keys."""
    for package in ("moto", "s3fs"):
        pytest.importorskip(package, reason="pip install 'moto[server]' s3fs")
    import fsspec
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (keys | {"AWS_ENDPOINT_URL": address}).items():
            patch.setenv(name, value)
        store = fsspec.filesystem("s3")
        store.mkdir("radiographs")
        yield address
        store.clear_instance_cache()
    urlopen(Request(f"{address}/moto-api/reset", method="POST")).close()  # of all servers here
    server.stop()
