"""Part `fusion`: one model for every subset of modalities, against specialists and rivals.

Every task with several modalities that `dvc repro` has embedded, by cross-validation over patients:
the folds of the task where it has some, else five. An official test part is never touched.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch

from benchmarks.figures import RUNS_VARIABLE
from benchmarks.fusion_models import averaged, fused, specialists
from benchmarks.fusion_rivals import LEARN, rival
from benchmarks.fusion_rows import Compared, rows_of
from benchmarks.rows import Row
from cxr_mm.contracts.task import Task
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.split import Resample, load_split, resamples
from cxr_mm.data.tasks import load_task, shipped_tasks
from cxr_mm.files import read_json
from cxr_mm.models.fusion import KINDS, FusionKind
from cxr_mm.params import FuseParams, for_task, load_params
from cxr_mm.paths import TaskPaths
from cxr_mm.training.cross_fit import group_folds
from cxr_mm.training.curves import HISTORY
from cxr_mm.training.studies import Studies, load_studies

FOLDS = 5
RECIPES: tuple[FusionKind, ...] = ("late", "concat")
"""What specialists are made by: heads that are weighed, and a perceptron over all at once."""
NOTHING = np.zeros(0, dtype=np.int64)


def measure() -> list[Row]:
    """Rows of every shipped task that can be compared; says which are left out."""
    rows: list[Row] = []
    for name in shipped_tasks():
        task = load_task(name)
        if len(task.modalities) < 2 or task.problem == "multiclass":
            continue
        paths = TaskPaths(name, Path(os.environ.get(RUNS_VARIABLE) or "."))
        if paths.embeddings.is_dir():
            print(f"fusion: {name}", flush=True)
            rows += measure_task(task, paths)
        else:
            print(f"fusion: {name} is left out: run dvc repro embed@{name}")
    return rows


def measure_task(task: Task, paths: TaskPaths) -> list[Row]:
    """Rows of one task whose embeddings are there."""
    params = for_task(load_params(), task)
    table = load_split(paths)
    studies = load_studies(load_manifest(paths, task), table, paths)
    parts = divided(studies, table, learnt(paths))
    return rows_of(task, compare(studies, parts, params.fuse), params.fuse, params.evaluate)


def learnt(paths: TaskPaths) -> bool:
    """Whether the image encoder has learnt from studies of the task."""
    history = read_json(paths.image_encoder / HISTORY)
    return "skipped" not in history and history["params"]["trainable"] != "frozen"


def divided(studies: Studies, table: pd.DataFrame, learnt: bool) -> list[Resample]:
    """Trainings and what each is tested on.

    Args:
        studies: all of the task.
        table: what `split` left.
        learnt: whether the image encoder has seen the training part, so that only the task's own
            test part (of an official split, its validation part) is new to it.
    """
    part, official = table["part"], studies.task.split.protocol == "official"
    if (part == "").all() or (learnt and not official):
        return resamples(table)
    train, val, test = (np.flatnonzero(part == name) for name in ("train", "val", "test"))
    if learnt:
        return [Resample(0, train, NOTHING, val)]
    rows = np.sort(np.concatenate([train, val, NOTHING if official else test]))
    labels = studies.labels[rows].numpy()
    fold = group_folds(labels, studies.groups[rows], FOLDS, 0, "fusion")
    return [Resample(k, rows[fold != k], NOTHING, rows[fold == k]) for k in range(FOLDS)]


@dataclass(frozen=True)
class Job:
    """One model to be trained on one round.

    `model`: a kind of fusion, `specialist KIND` or the name of a rival.
    """

    model: str
    part: Resample


def compare(studies: Studies, parts: list[Resample], params: FuseParams) -> dict[str, Compared]:
    """Predictions of every model for every subset, by model; rounds one below the other."""
    models = [*KINDS, *(f"specialist {kind}" for kind in RECIPES), *LEARN]
    jobs = [Job(model, part) for model in models for part in parts]
    done = joblib.Parallel(n_jobs=-1)(joblib.delayed(_run)(studies, job, params) for job in jobs)
    found = {}
    for model in models:
        own = [d for job, d in zip(jobs, done, strict=True) if job.model == model]
        tables = pd.concat([table for table, _ in own], ignore_index=True)
        found[model] = Compared(tables, sum(seconds for _, seconds in own))
    late = found["late"]
    found["late averaging"] = Compared(averaged(late.table, studies.task), late.seconds)
    return found


def _run(studies: Studies, job: Job, params: FuseParams) -> tuple[pd.DataFrame, float]:
    torch.set_num_threads(1)  # as many jobs run side by side as there are cores
    if not len(job.part.val):
        params = params.model_copy(update={"calibrate_on": "cross_fit"})
    started = time.perf_counter()
    if job.model in LEARN:
        table = rival(studies, job.part, job.model)
    elif job.model in KINDS:
        table = fused(studies, job.part, params, job.model)
    else:
        kind = next(kind for kind in RECIPES if job.model.endswith(kind))
        table = specialists(studies, job.part, params, kind)
    return table.assign(fold=job.part.fold), time.perf_counter() - started
