"""Bench of part `explain`: a task's bundle and held-out studies, and the rows made of them."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd

from benchmarks.figures import RUNS_VARIABLE
from benchmarks.rounds import device
from benchmarks.rows import Row
from cxr_mm.contracts.explanation import Target
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.tasks import load_task
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.bundle_files import load_bundle
from cxr_mm.paths import TaskPaths

TABLE, COMMAND = "explain", "make benchmark PART=explain"
STUDIES = 20
Found = TypeVar("Found")


@dataclass(frozen=True)
class Bench:
    """A task's bundle, and studies that have every modality."""

    task: str
    bundle: Bundle
    subjects: list[Subject]
    target: Target

    def row(self, row: str, metric: str, value: float, n: int, **targets: Any) -> Row:
        """A row of the table."""
        return Row(
            table=TABLE,
            task=self.task,
            row=row,
            metric=metric,
            value=round(value, 4),
            n=n,
            seed=0,
            device=device(),
            command=COMMAND,
            **targets,
        )


def open_bench(name: str) -> Bench | None:
    """The bench of a task; None where it has no bundle yet."""
    paths = TaskPaths(name, Path(os.environ.get(RUNS_VARIABLE) or "."))
    if not paths.bundle.is_dir():
        return None
    task, bundle = load_task(name), load_bundle(paths.bundle)
    studies = Studies(load_manifest(paths, task), paths.pixels)
    heldout = pd.read_parquet(paths.heldout)
    everything = heldout[heldout["subset"] == "image+tabular+note"].drop_duplicates("study_id")
    chosen = everything.sample(STUDIES, random_state=0)["study_id"].astype(str)
    subjects = [Subject(bundle, studies.study(s, film=True)) for s in chosen]
    return Bench(name, bundle, subjects, Target(task.finding_names[-1]))


def fresh(subject: Subject) -> Subject:
    """The subject with nothing remembered."""
    return Subject(subject.bundle, subject.study)


def timed(run: Callable[[], Found]) -> tuple[float, Found]:
    """How long a call takes (s), and what it gives."""
    started = time.perf_counter()
    found = run()
    return time.perf_counter() - started, found


def seconds(run: Callable[[], Any]) -> float:
    """How long a call takes (s)."""
    return timed(run)[0]
