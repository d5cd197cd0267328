"""Training without DVC: the stages of a task, one after another, in one folder."""

import os
import weakref
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd
from tqdm import tqdm

from cxr_mm.api.frames import FolderInput, errors_of_frame, write_table
from cxr_mm.api.model import Model
from cxr_mm.core.config import Params, for_task, with_split
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.task import SourceSpec, Task, load_task, task_of
from cxr_mm.data.ingest import ingest
from cxr_mm.data.manifest import with_frequent_findings
from cxr_mm.data.resolve import resolve
from cxr_mm.data.sources.columns import OPTIONS
from cxr_mm.data.split import split
from cxr_mm.evaluation.evaluate import evaluate as evaluate_stage
from cxr_mm.inference.predictor import load_predictor
from cxr_mm.training.embed import embed
from cxr_mm.training.fuse import fuse
from cxr_mm.training.train_image import train_image

TaskInput = str | os.PathLike[str] | Mapping[str, Any] | Task
"""A task's name, the path of its YAML file, what such a file says, or the task itself."""
Overrides = Mapping[str, Mapping[str, Any]]
"""Section of params.yaml → parameter → value, see docs/reference/parameters.md."""


def train(
    task: TaskInput,
    data: pd.DataFrame | None = None,
    *,
    images: FolderInput = None,
    folder: FolderInput = None,
    params: Overrides | None = None,
    evaluate: bool = True,
    accept_any_image: bool = False,
    progress: bool = True,
) -> Model:
    """Train a model by the stages of `dvc.yaml` up to `evaluate`, without DVC.

    Meant for a small set: every stage runs anew each time, and images are decoded in this process.
    DVC runs again only what has changed, keeps versions, and goes on where it was interrupted.

    Args:
        task: what is predicted, and from what.
        data: a row for each study, with the columns of a manifest CSV to train on (docs/tasks.md):
            `patient_id`, a column for each finding and each clinical feature, `image_path` (paths
            or images in memory) and note. None: the task's own source.
        images: folder that paths are relative to; None: the working directory.
        folder: for what the stages write (`data`, `models` and `reports`); None: a temporary one,
            which goes with the model unless it is saved.
        params: on top of the defaults and the task's own.
        evaluate: whether to measure on held-out studies and write the model card.
        accept_any_image: as `load` has it.
        progress: whether to show a bar of stages.

    Raises:
        TaskError, ParamsError: the task or a parameter is invalid.
        ManifestError: the table lacks a column, or has no usable study.
        DataNotFoundError: the task's own source is not there.
        StageError: there are too few studies to train on.
        WeightsError: pretrained weights that are not available.
    """
    chosen = _with_params(task_given(task), params or {})
    with ExitStack() as stack:
        if folder is None:
            folder = stack.enter_context(TemporaryDirectory(prefix="cxr-mm-"))
        root = Path(folder).absolute()
        if data is not None:
            table = write_table(chosen, data, root / "source", images)
            chosen = _of_table(chosen, table)
            stack.enter_context(errors_of_frame(table))
        _run(chosen, root, evaluate, progress)
        paths = TaskPaths(chosen.name, root)
        model = Model(load_predictor(paths.bundle, accept_any_image), [paths.reports])
        # Its note encoder is read when the first note comes, so the folder stays until then.
        weakref.finalize(model, stack.pop_all().close)
        return model


def task_given(task: TaskInput) -> Task:
    """The task that a caller names, describes or hands over.

    Raises:
        TaskError: there is no such task, or it is invalid.
    """
    if isinstance(task, Task):
        return task
    return task_of(dict(task)) if isinstance(task, Mapping) else load_task(os.fspath(task))


def _with_params(task: Task, overrides: Overrides) -> Task:
    """The task with parameters on top of its own; one process decodes unless they say otherwise.

    Processes import the caller's script anew, which not every script is written for.
    """
    sections = dict.fromkeys(["ingest", *task.params, *overrides])
    merged = {name: {**task.params.get(name, {}), **overrides.get(name, {})} for name in sections}
    merged["ingest"] = {"workers": 1, **merged["ingest"]}
    return task.model_copy(update={"params": merged})


def _of_table(task: Task, table: Path) -> Task:
    """The task with a manifest CSV for its source, whose columns are called as the task does."""
    named = {name: v for name, v in task.source.options.items() if name in OPTIONS.values()}
    options = {"file": table.name, **named}
    source = SourceSpec(kind="manifest_csv", folder=str(table.parent), options=options)
    return task.model_copy(update={"source": source})


def _run(task: Task, root: Path, evaluate: bool, progress: bool) -> None:
    """Run the stages of a task below `root`."""
    params, paths = for_task(Params(tasks=(task.name,)), task), TaskPaths(task.name, root)
    stages = [split, train_image, embed, fuse, *([evaluate_stage] if evaluate else [])]
    with tqdm(total=2 + len(stages), unit="stage", disable=not progress) as bar:
        for prepare in (resolve, ingest):
            bar.set_description(prepare.__name__)
            prepare(task, params, paths, data_root())
            bar.update()
        task = with_split(with_frequent_findings(task, paths), params.split)
        for stage in stages:
            bar.set_description(stage.__name__)
            stage(task, params, paths)
            bar.update()
