"""Part `faithfulness`: how faithful each method is, on every task's bundle.

As the stage `explain` measures it where nothing else is asked for, so with slow methods too.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from benchmarks.harness.parts import Row
from benchmarks.harness.report import RUNS_VARIABLE
from benchmarks.harness.timing import device
from cxr_mm.core.config import ExplainParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task, shipped_tasks
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.stage import Measured, measured_on

TABLE, AREAS = "faithfulness", "faithfulness: in the true area"
COMMAND = "make benchmark PART=faithfulness"
PARAMS = ExplainParams()
FIGURES = ("gain", "deletion", "insertion", "sparsity", "noise", "seeds", "r2")


def measure() -> list[Row]:
    """Rows of every task that has a bundle; says which are left out."""
    rows: list[Row] = []
    for name in shipped_tasks():
        paths = TaskPaths(name, Path(os.environ.get(RUNS_VARIABLE) or "."))
        if paths.bundle.is_dir():
            print(f"faithfulness: {name}", flush=True)
            rows += rows_of(name, measured_on(load_task(name), PARAMS, paths))
        else:
            print(f"faithfulness: {name} is left out: run dvc repro fuse@{name}")
    return rows


def rows_of(task: str, found: Measured) -> list[Row]:
    """A row for each figure of each method."""
    rows = []
    for name, figures in found["methods"].items():
        shuffled = list(figures["randomised"].values())[-1:]
        named = {metric: figures.get(metric) for metric in FIGURES}
        named["weights shuffled"] = shuffled[0] if shuffled else None
        rows += [
            _row(TABLE, task, f"{figures['modality']}: {name}", metric, figure, figures["n"])
            for metric, figure in named.items()
            if figure
        ]
    for finding, methods in (found["localisation"] or {}).items():
        for name, figures in methods.items():
            label = f"{finding}: {METHODS[name].title}"
            for metric in ("energy", "pointing", "iou", "gain"):
                own = figures[metric]
                rows.append(_row(AREAS, task, label, metric, own, figures["n"]))
    return rows


def _row(table: str, task: str, row: str, metric: str, figure: Mapping[str, float], n: int) -> Row:
    return Row(
        table=table,
        task=task,
        row=row,
        metric=metric,
        value=round(figure["value"], 4),
        ci95=(round(figure["low"], 4), round(figure["high"], 4)),
        reference=0.0 if metric in ("gain", "deletion", "insertion") else None,
        n=n,
        seed=PARAMS.seed,
        device=device(),
        command=COMMAND,
    )
