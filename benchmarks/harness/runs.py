"""Runs: the stages of a task with other parameters, in a folder of its own and a child process.

A finished run is read, not repeated; an interrupted one goes on at the stage where it stopped, a
training at its last whole epoch. Runs that differ in training alone share one ingest and split.
"""

import functools
import hashlib
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import cxr_mm
from cxr_mm import __version__
from cxr_mm.core.config import Params, for_task, load_params, with_split
from cxr_mm.core.errors import CxrError, StageError
from cxr_mm.core.files import read_json, to_json, write_json
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.task import Task, load_task
from cxr_mm.core.types import Frozen, Modality
from cxr_mm.data.ingest import ingest
from cxr_mm.data.resolve import PROSE
from cxr_mm.data.sources import fingerprint, source_found
from cxr_mm.data.split import split
from cxr_mm.training.embed import embed
from cxr_mm.training.fuse import fuse
from cxr_mm.training.train_image import train_image

BASE = Path(".cache") / "benchmarks"
PACKAGE = Path(cxr_mm.__file__).parent
LAYERS = ("core", "imaging", "data", "models", "inference", "training", "evaluation")
"""Whose code makes a figure."""
Overrides = dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Setting:
    """A task with its parameters, and where a run of it lies."""

    task: Task
    params: Params

    @property
    def paths(self) -> TaskPaths:
        sections = ("ingest", "split", "train_image", "embed", "fuse", "evaluate")
        return self._below("runs", *sections)

    @property
    def ingested(self) -> TaskPaths:
        return self._below("data", "ingest")

    @property
    def divided(self) -> TaskPaths:
        return self._below("data", "ingest", "split")

    def _below(self, kind: str, *sections: str) -> TaskPaths:
        question = self.task.model_dump(mode="json", exclude={"params", *PROSE})
        if "split" not in sections:
            question.pop("split")
        chosen = {name: self.params.model_dump(mode="json")[name] for name in sections}
        # What is cheap is made anew when its code changes; for a training that is only said.
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
    """Digest of the modules of some layers, as of the first call."""
    digest = hashlib.sha256()
    for layer in layers:
        files = sorted((PACKAGE / layer).rglob("*.py"))
        assert files, f"there is no layer {layer}"
        for file in files:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


DONE, SECONDS, SOURCE = "done.json", "seconds.json", "source.json"
OVERRIDES, LOG = "overrides.json", "log.txt"
Seconds = dict[str, float | None]
Stage = Callable[[Task, Params, TaskPaths], None]


class Finished(Frozen):
    """What a run leaves."""

    name: str
    folder: Path
    metrics: dict[str, Any]
    """As `evaluate` wrote them."""
    seconds: Seconds
    """Per stage; None for one that was interrupted and went on."""
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

    @property
    def heldout(self) -> list[pd.DataFrame]:
        """Predictions on held-out studies, as `fuse` left them, one table for each division."""
        paths = TaskPaths(str(self.metrics["task"]), self.folder)
        further = pd.read_parquet(paths.divisions).groupby("division")
        return [pd.read_parquet(paths.heldout), *(table for _, table in further)]


def run(task: str, overrides: Overrides, name: str) -> Finished:
    """Run a task's stages from ingest to evaluate, or read what an equal run left.

    Args:
        task: name of a task.
        overrides: section → parameter → value, on top of the task's own.
        name: what to call it while it runs.

    Raises:
        StageError: a stage failed, or the data changed since.
    """
    chosen = setting(task, overrides)
    folder = chosen.paths.root
    if not (folder / DONE).is_file():
        write_json(folder / OVERRIDES, overrides)
        print(f"{task}: {name} (see {folder / LOG})", flush=True)
        _in_process([task, str(folder / OVERRIDES), name], folder / LOG)
    finished = Finished.model_validate(read_json(folder / DONE) | {"folder": folder})
    _same_source(chosen.task, finished.source, folder)
    if finished.code != code_digest(*LAYERS):
        print(f"{task}: {name}: measured with other code; to repeat, remove {folder}")
    return finished


def attempt(task: str, overrides: Overrides, name: str) -> Finished | None:
    """As `run`; an error that a user can fix is told, and None given, so that others go on."""
    try:
        return run(task, overrides, name)
    except CxrError as error:
        print(f"error: {task}: {name}: {error}", file=sys.stderr)
        return None


def _in_process(arguments: list[str], log: Path) -> None:
    """`main` in a process of its own, what it prints appended to a log."""
    here = str(Path(__file__).parents[2])
    path = os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])
    with log.open("a") as stream:
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.harness.runs", *arguments],
            check=False,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONPATH": path},
        )
    if done.returncode:
        last = log.read_text(errors="replace").splitlines()[-1:]
        raise StageError(
            f"a run ended with code {done.returncode} ({' '.join(last)})",
            field=str(log),
            remedy="A next run goes on where this one stopped",
        )


def run_here(task: str, overrides: Overrides, name: str) -> None:
    """Run in this process, from the first stage that is not done."""
    from cxr_mm.evaluation.evaluate import evaluate
    from cxr_mm.training.embed import embed
    from cxr_mm.training.fuse import fuse
    from cxr_mm.training.train_image import train_image

    chosen, code = setting(task, overrides), code_digest(*LAYERS)
    paths = chosen.paths
    _prepare(chosen)
    for stage in (train_image, embed, fuse, evaluate):
        _timed(stage, chosen, paths)
    done = {
        "name": name,
        "metrics": read_json(paths.reports / "metrics.json"),
        "seconds": _seconds(chosen.ingested) | _seconds(chosen.divided) | _seconds(paths),
        "device": _device(chosen.params),
        "code": code,
        "source": read_json(chosen.ingested.root / SOURCE),
    }
    write_json(paths.root / DONE, done)
    # The figures and the held-out predictions are what was wanted; the rest can be made again.
    for folder in (paths.bundle, paths.image_encoder, paths.embeddings):
        shutil.rmtree(folder, ignore_errors=True)


def _prepare(chosen: Setting) -> None:
    """Ingest and split as far as no run has done them, and link them into the run's folder."""
    from cxr_mm.data.split import split

    first, second, paths = chosen.ingested, chosen.divided, chosen.paths
    _timed(_ingest, chosen, first, "ingest")
    _same_source(chosen.task, read_json(first.root / SOURCE), first.root)
    _link(first.ingest, second.ingest)
    _timed(split, chosen, second)
    if _link(first.ingest, paths.ingest) | _link(second.split, paths.split):
        (paths.root / SECONDS).unlink(missing_ok=True)  # what was done, was done with others


def _ingest(task: Task, params: Params, paths: TaskPaths) -> None:
    from cxr_mm.data.ingest import ingest

    root = data_root()
    write_json(paths.root / SOURCE, fingerprint(task, root))
    ingest(task, params, paths, root)


def _same_source(task: Task, made_of: dict[str, Any], folder: Path) -> None:
    """Refuse what was made of other data. Where the source is not there, what was made stands."""
    root = data_root()
    if source_found(task, root) is None and fingerprint(task, root) != made_of:
        raise StageError(
            "its source has changed since", field=str(folder), remedy=f"Remove {BASE} and run again"
        )


def _link(source: Path, target: Path) -> bool:
    """A relative link, so that the whole may be moved; says whether it is new."""
    present = os.path.relpath(source, target.parent)
    if target.is_symlink() and str(target.readlink()) == present:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    target.symlink_to(present, target_is_directory=True)
    return True


def _timed(stage: Stage, chosen: Setting, paths: TaskPaths, name: str = "") -> None:
    """Run a stage unless it is done, and keep its seconds."""
    name = name or stage.__name__
    if name in (before := _seconds(paths)):
        return
    paths.root.mkdir(parents=True, exist_ok=True)
    begun = paths.root / f"{name}.begun"
    anew = not begun.exists()
    begun.touch()
    started = time.perf_counter()
    stage(chosen.task, chosen.params, paths)
    taken = round(time.perf_counter() - started, 1)
    write_json(paths.root / SECONDS, {**before, name: taken if anew else None})
    begun.unlink()


def _seconds(paths: TaskPaths) -> Seconds:
    file = paths.root / SECONDS
    found: Seconds = read_json(file) if file.is_file() else {}
    return found


def _device(params: Params) -> str:
    import torch

    wanted = params.train_image.accelerator in ("auto", "gpu", "cuda")
    if params.train_image.trainable != "frozen" and wanted and torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"cpu, {torch.get_num_threads()} threads"


def main(arguments: list[str]) -> None:
    """`python -m benchmarks.harness.runs TASK OVERRIDES.json [NAME]`: one run in this process."""
    task, file, *name = arguments
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    logging.getLogger("timm").setLevel(logging.WARNING)
    try:
        run_here(task, read_json(Path(file)), " ".join(name) or task)
    except CxrError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main(sys.argv[1:])


STAGES: tuple[Callable[[Task, Params, TaskPaths], None], ...] = (split, train_image, embed, fuse)


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
    """Make up studies and train a bundle on them; the encoder stays frozen.

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
    for stage in STAGES:
        stage(task, params, paths)
    return SmallTask(task, params, paths)
