"""Runs: the stages of a task with other parameters, in a folder of their own.

A finished run is read, not repeated; an interrupted one continues at the stage where it stopped, a
training at its last whole epoch. Runs that differ in training alone share one ingest and split.
Where the environment names Ray (`CXR_MM_ENGINE=ray`) a part's runs are made side by side.
"""

import functools
import hashlib
import os
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import cxr_mm
from benchmarks.harness.outputs import Figure, figure
from benchmarks.harness.parts import Row
from benchmarks.harness.timing import device
from cxr_mm import __version__
from cxr_mm.core.config import Params, TrainImageParams, for_task, load_params, with_split
from cxr_mm.core.errors import CxrError, StageError
from cxr_mm.core.files import read_json, to_json, write_json
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.shards.work import Work
from cxr_mm.core.task import Task, load_task
from cxr_mm.core.types import Frozen, Modality
from cxr_mm.data.ingest import ingest
from cxr_mm.data.manifest import with_frequent_findings
from cxr_mm.data.resolve import question_of
from cxr_mm.data.sources import fingerprint, source_found
from cxr_mm.data.split import split
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.inference.engine import engine_of_environment, run_shards
from cxr_mm.training.embed import embed
from cxr_mm.training.fuse import fuse
from cxr_mm.training.train_image import train_image

BASE = Path(".cache") / "benchmarks"
PACKAGE = Path(cxr_mm.__file__).parent
LAYERS = ("core", "imaging", "data", "models", "inference", "training", "evaluation")
"""Packages whose code decides a figure."""
DONE, SECONDS, SOURCE = "done.json", "seconds.json", "source.json"
Overrides = dict[str, dict[str, Any]]
Seconds = dict[str, float | None]


@dataclass(frozen=True)
class Setting:
    """A task with its parameters, and the folders of a run of it."""

    task: Task
    params: Params

    @property
    def paths(self) -> TaskPaths:
        return self._below("runs", "train_image", "embed", "fuse", "evaluate")

    @property
    def prepared(self) -> TaskPaths:
        """Of ingest and split, which runs that differ in later stages share."""
        return self._below("data")

    def _below(self, kind: str, *stages: str) -> TaskPaths:
        question = question_of(self.task)
        sections = ("ingest", "split", *stages)
        chosen = {name: self.params.model_dump(mode="json")[name] for name in sections}
        # Changed code invalidates what is cheap; for a training it is only reported.
        code = code_digest("core", "imaging", "data") if kind == "data" else __version__
        text = to_json([code, question, chosen])
        digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        return TaskPaths(self.task.name, BASE / kind / f"{self.task.name}-{digest}")


def setting(task: str, overrides: Overrides) -> Setting:
    """The task with `overrides` on top of everything that its file and params.yaml say.

    Raises:
        TaskError: there is no such task.
        ParamsError: an override is unknown or out of range.
    """
    found = load_task(task)
    shipped = for_task(load_params(), found)
    params = for_task(shipped, found.model_copy(update={"params": overrides}))
    return Setting(with_split(found, params.split), params)


@functools.cache
def code_digest(*layers: str) -> str:
    """Digest of the modules of some packages of `cxr_mm`, as of the first call."""
    digest = hashlib.sha256()
    for layer in layers:
        files = sorted((PACKAGE / layer).rglob("*.py"))
        assert files, f"there is no package {layer}"
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


class Finished(Frozen):
    """What a run leaves."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    """As `evaluate` wrote them."""
    seconds: Seconds
    """Per stage; None for one that was interrupted and continued."""
    device: str
    """Where the image encoder was trained."""
    code: str
    """Digest of the code it was measured with."""
    source: dict[str, Any]
    """Fingerprint of the data it was measured on."""

    @property
    def total_seconds(self) -> float | None:
        """Of all stages, those shared with other runs too; None where one was interrupted."""
        known = [s for s in self.seconds.values() if s is not None]
        return sum(known) if len(known) == len(self.seconds) else None

    def rows(self, inputs: str, metric: str, **more: Any) -> list[Row]:
        """The row of a metric of one subset of modalities; none where it is not defined."""
        found = figure(self.metrics, inputs, metric)
        return [] if found is None else [self.row(metric, found, **more)]

    def row(self, metric: str, found: Figure, **more: Any) -> Row:
        """The row of a figure of this run."""
        facts = {"task": self.metrics["task"], "metric": metric, **found.model_dump(), **more}
        return Row(seconds=self.total_seconds, device=self.device, **facts)

    @property
    def heldout(self) -> list[pd.DataFrame]:
        """Predictions on held-out studies, as `fuse` left them, one table for each division."""
        further = pd.read_parquet(self.paths.divisions).groupby("division")
        return [pd.read_parquet(self.paths.heldout), *(table for _, table in further)]

    @property
    def paths(self) -> TaskPaths:
        """Of what its stages wrote."""
        return TaskPaths(str(self.metrics["task"]), self.folder)


def run(task: str, overrides: Overrides, name: str) -> Finished:
    """Run a task's stages from ingest to evaluate, or read what an equal run left.

    Args:
        task: name of a task.
        overrides: section → parameter → value, on top of the task's own.
        name: what to call it while it runs.

    Raises:
        CxrError: a stage failed, or the data changed since.
    """
    chosen = setting(task, overrides)
    folder = chosen.paths.root
    if not (folder / DONE).is_file():
        print(f"{task}: {name}", flush=True)
        _run_stages(chosen, name)
    finished = Finished.model_validate(read_json(folder / DONE) | {"folder": folder})
    _check_source(chosen.task, finished.source, folder)
    if finished.code != code_digest(*LAYERS):
        print(f"{task}: {name}: measured with other code; to repeat, remove {folder}")
    return finished


def attempt(task: str, overrides: Overrides, name: str) -> Finished | None:
    """As `run`; an error that a user can fix is shown, and None returned, so that others go on."""
    try:
        return run(task, overrides, name)
    except CxrError as error:
        print(f"error: {task}: {name}: {error}", file=sys.stderr)
        return None


@dataclass(frozen=True)
class Wanted:
    """A run that a part will ask for; arguments as of `run`."""

    task: str
    overrides: Overrides
    name: str

    @property
    def is_done(self) -> bool:
        return (setting(self.task, self.overrides).paths.root / DONE).is_file()

    def attempt(self) -> Finished | None:
        """As `attempt`."""
        return attempt(self.task, self.overrides, self.name)


def side_by_side(wanted: Sequence[Wanted]) -> Iterator[Finished | None]:
    """Make runs, at the same time where the environment names Ray; yield them in their order, None
    for one that failed and said why.

    Raises:
        InputError: Ray is not installed, or cannot be used as the environment says.
    """
    engine = engine_of_environment()
    missing = [] if engine.name == "local" else [each for each in wanted if not each.is_done]
    ready = [each for each in missing if _is_prepared(each)]
    load = functools.partial(_maker, Path.cwd(), ready)
    for _ in run_shards(engine, load, range(len(ready))) if ready else ():
        pass
    yield from (each.attempt() for each in wanted)


def _is_prepared(wanted: Wanted) -> bool:
    """Make what runs share before they are made at the same time; whether that was possible."""
    try:
        _prepare(setting(wanted.task, wanted.overrides))
    except CxrError:
        return False
    return True


def _maker(project: Path, wanted: Sequence[Wanted]) -> Work:
    os.chdir(project)  # where folders of runs are
    return lambda numbers: (
        {"shard": number, "done": wanted[number].attempt() is not None} for number in numbers
    )


def _run_stages(chosen: Setting, name: str) -> None:
    """Run every stage that is not done, and store what the run leaves."""
    code, paths = code_digest(*LAYERS), chosen.paths
    frequent = _prepare(chosen)
    for stage in (train_image, embed, fuse, evaluate):
        _timed(stage, frequent, paths)
    done = Finished(
        name=name,
        folder=paths.root,
        metrics=read_json(paths.reports / "metrics.json"),
        seconds=_seconds(chosen.prepared) | _seconds(paths),
        device=_device(chosen.params.train_image),
        code=code,
        source=read_json(chosen.prepared.root / SOURCE),
    )
    write_json(paths.root / DONE, done.model_dump(mode="json"))
    # Only figures and held-out predictions are wanted; the rest can be made again.
    for folder in (paths.bundle, paths.image_encoder, paths.embeddings):
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(chosen: Setting) -> Setting:
    """Ingest and split unless another run has, and link the results into the run's folder.

    The setting comes back with the findings that are frequent enough for the task.
    """
    made, paths = chosen.prepared, chosen.paths
    if "ingest" not in _seconds(made):
        write_json(made.root / SOURCE, fingerprint(chosen.task, data_root()))
    _timed(ingest, chosen, made, data_root())
    _check_source(chosen.task, read_json(made.root / SOURCE), made.root)
    frequent = replace(chosen, task=with_frequent_findings(chosen.task, made))
    _timed(split, frequent, made)
    if _link(made.ingest, paths.ingest) | _link(made.split, paths.split):
        (paths.root / SECONDS).unlink(missing_ok=True)  # earlier stages had other inputs
    return frequent


def _check_source(task: Task, made_of: dict[str, Any], folder: Path) -> None:
    """Refuse what was made of other data, where the source is available to compare."""
    root = data_root()
    if source_found(task, root) is None and fingerprint(task, root) != made_of:
        raise StageError(
            "its source has changed since", field=str(folder), remedy=f"Remove {BASE} and run again"
        )


def _link(source: Path, target: Path) -> bool:
    """A relative link, so that the whole may be moved; whether it is new."""
    present = os.path.relpath(source, target.parent)
    if target.is_symlink() and str(target.readlink()) == present:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(present, target_is_directory=True)
    return True


def _timed(stage: Callable[..., object], chosen: Setting, paths: TaskPaths, *inputs: Path) -> None:
    """Run a stage unless it is done, and store its seconds."""
    name = stage.__name__
    if name in (before := _seconds(paths)):
        return
    paths.root.mkdir(parents=True, exist_ok=True)
    begun = paths.root / f"{name}.begun"
    interrupted = begun.exists()
    begun.touch()
    started = time.perf_counter()
    stage(chosen.task, chosen.params, paths, *inputs)
    taken = round(time.perf_counter() - started, 1)
    write_json(paths.root / SECONDS, {**before, name: None if interrupted else taken})
    begun.unlink()


def _seconds(paths: TaskPaths) -> Seconds:
    file = paths.root / SECONDS
    return dict(read_json(file)) if file.is_file() else {}


def _device(params: TrainImageParams) -> str:
    is_used = params.accelerator in ("auto", "gpu", "cuda")
    return torch.cuda.get_device_name() if is_used and torch.cuda.is_available() else device()


@dataclass(frozen=True)
class SmallTask:
    """A task whose stages up to `fuse` have run."""

    task: Task
    params: Params
    paths: TaskPaths

    @property
    def source(self) -> Path:
        """Folder of the images and of manifest.csv."""
        return self.paths.ingest / "source"


def make_small_task(
    folder: Path,
    *,
    size: int,
    backbone: str = "tf_efficientnet_lite0",
    studies: int = 120,
    image: int = 256,
    without: Collection[Modality] = (),
) -> SmallTask:
    """Make up studies and train a bundle on them; the image encoder stays frozen.

    Args:
        folder: empty; everything goes below it.
        size: side of the square that the encoder sees, in pixels.
        backbone: `small_cnn` or a packaged one.
        studies: how many.
        image: long side of an image in pixels.
        without: modalities that are left out of the task, `tabular` or `note`.
    """
    shipped = load_task("synthetic")
    options = {"studies": studies, "seed": 0, "size": image}
    weights = "none" if backbone == "small_cnn" else "packaged"
    overrides: dict[str, dict[str, Any]] = {
        "ingest": {"size": size, "workers": 1},
        "train_image": {"backbone": backbone, "weights": weights},
        "fuse": {"inner_folds": 2},
    }
    task = shipped.model_copy(
        update={
            "source": shipped.source.model_copy(update={"options": options}),
            "params": overrides,
            "clinical": () if "tabular" in without else shipped.clinical,
            "note": None if "note" in without else shipped.note,
        }
    )
    params, paths = for_task(load_params(), task), TaskPaths(task.name, folder)
    ingest(task, params, paths, folder)
    for stage in (split, train_image, embed, fuse):
        stage(task, params, paths)
    return SmallTask(task, params, paths)
