"""Stage evaluate: predictions on held-out studies → metrics with intervals, curves and plots."""

from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.contracts.task import Task
from cxr_mm.errors import StageError
from cxr_mm.evaluation.plots import write_plots
from cxr_mm.evaluation.subsets import AVAILABLE, measure_table
from cxr_mm.files import write_json
from cxr_mm.params import Params
from cxr_mm.paths import TaskPaths

METRICS_FILE, PLOTS_FOLDER = "metrics.json", "plots"
COLUMNS = ("study_id", "patient_id", "group", "fold", "subset")


def evaluate(task: Task, params: Params, paths: TaskPaths) -> None:
    """Write `reports/TASK/metrics.json` and `reports/TASK/plots/`.

    Raises:
        StageError: there are no held-out predictions, or a column of theirs is missing.
    """
    table = read_heldout(task, paths)
    metrics = {**described(task, table), **measure_table(task, table, params.evaluate)}
    write_plots(task, table, metrics, params.evaluate, paths.reports / PLOTS_FOLDER)
    write_json(paths.reports / METRICS_FILE, metrics)


def read_heldout(task: Task, paths: TaskPaths) -> pd.DataFrame:
    """Held-out predictions, checked at the door.

    Raises:
        StageError: the file is missing or holds no row of `available`, a column is missing, or a
            probability is none.
    """
    field, remedy = str(paths.heldout), f"Run dvc repro fuse@{task.name}"
    if not paths.heldout.is_file():
        raise StageError("no such file", field=field, remedy=remedy)
    table = pd.read_parquet(paths.heldout)
    needed = [*COLUMNS]
    for name in task.finding_names:
        needed += [f"{part}.{name}" for part in ("label", "probability", "positive")]
    if missing := [c for c in needed if c not in table.columns]:
        raise StageError(f"no column {', '.join(missing)}", field=field, remedy=remedy)
    if not (table["subset"] == AVAILABLE).any():
        raise StageError("no held-out study", field=field, remedy=remedy)
    chances = table[[f"probability.{name}" for name in task.finding_names]].to_numpy(np.float64)
    if not np.all((chances >= 0) & (chances <= 1)):
        raise StageError("a probability is not in [0, 1]", field=field, remedy=remedy)
    return table


def described(task: Task, table: pd.DataFrame) -> dict[str, Any]:
    """What the figures are of."""
    return {
        "task": task.name,
        "title": task.title,
        "problem": task.problem,
        "synthetic": task.synthetic,
        "protocol": task.split.protocol,
        "folds": int(table["fold"].nunique()),
    }
