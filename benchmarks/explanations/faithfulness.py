"""Part `faithfulness`: how faithful each method is, on the bundle of a task.

As the stage `explain` measures it, slow methods included and without a limit of time.
"""

from collections.abc import Mapping
from typing import Any

from benchmarks.harness.parts import Row
from cxr_mm.core.config import ExplainParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import load_task
from cxr_mm.explain.budget import TimeBudget
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.stage import Measured, measured_on

AREAS = "faithfulness: in the true area"
PARAMS = ExplainParams(studies=40, slow_studies=30, time_limit=None)
FIGURES = ("gain", "deletion", "insertion", "sparsity", "noise", "seeds", "r2")


def measure(paths: TaskPaths) -> list[Row]:
    """Rows of a task."""
    found = measured_on(load_task(paths.task), PARAMS, paths, TimeBudget(PARAMS.time_limit))
    return rows_of(paths.task, found)


def rows_of(task: str, found: Measured) -> list[Row]:
    """A row for each figure of each method."""
    rows = []
    for name, figures in found["methods"].items():
        shuffled = list(figures["randomised"].values())[-1:]
        named = {metric: figures.get(metric) for metric in FIGURES}
        named["weights shuffled"] = shuffled[0] if shuffled else None
        facts = {"task": task, "row": f"{figures['modality']}: {name}", "n": figures["n"]}
        rows += [_row(metric, figure, **facts) for metric, figure in named.items() if figure]
    for finding, methods in (found["localisation"] or {}).items():
        for name, figures in methods.items():
            label = f"{finding}: {METHODS[name].title}"
            facts = {"table": AREAS, "task": task, "row": label, "n": figures["n"]}
            areas = ("energy", "pointing", "iou", "gain")
            rows += [_row(metric, figures[metric], **facts) for metric in areas]
    return rows


def _row(metric: str, figure: Mapping[str, float | None], **facts: Any) -> Row:
    """A figure; of fewer than ten patients it has no interval."""
    value, *limits = (figure[name] for name in ("value", "low", "high"))
    known = [round(limit, 4) for limit in limits if limit is not None]
    zero = 0.0 if metric in ("gain", "deletion", "insertion") else None
    given = {"ci95": tuple(known) or None, "reference": zero, "seed": PARAMS.seed}
    return Row(metric=metric, value=round(value or 0.0, 4), **given, **facts)
