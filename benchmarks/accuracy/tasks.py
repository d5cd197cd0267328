"""Part `tasks`: held-out figures of every task that `dvc repro` has run, beside floor and targets.

The first table has the figures with a floor or a target, the second all of them.
"""

from dataclasses import dataclass
from typing import Any

from benchmarks.harness.outputs import (
    BEST_SINGLE,
    FUSED,
    METRICS_FILE,
    Figure,
    Metrics,
    after,
    figure,
)
from benchmarks.harness.parts import Row
from cxr_mm.core.files import read_json
from cxr_mm.core.task import shipped_tasks

EVERY, POPULATIONS = "tasks: every figure", "tasks: populations"
METRICS = ("auc", "average_precision", "accuracy", "sensitivity", "specificity", "brier", "ece")


@dataclass(frozen=True)
class Target:
    """What a figure of a task is compared with."""

    task: str
    inputs: str
    """As of `figure`."""
    metric: str
    floor: float | None = None
    must: float | None = None
    aim: float | None = None


TARGETS = (
    Target("pneumonia", "image", "auc", 0.963, 0.975, 0.991),
    Target("pneumonia", "image", "accuracy", 0.848, 0.91, 0.946),
    Target("pneumonia", "image", "specificity", 0.615, 0.80, 0.90),
    Target("pneumonia3", "image", "accuracy", 0.776, 0.86, 0.91),
    Target("effusion", "image", "auc", 0.872, 0.92, 0.952),
    Target("effusion", "image", "average_precision", 0.63),
    Target("covid", FUSED, "auc", 0.849, 0.87, 0.90),
    Target("covid", BEST_SINGLE, "auc", 0.823),
    Target("icu", FUSED, "auc", 0.869, 0.88, 0.91),
    Target("icu", BEST_SINGLE, "auc", 0.822),
    Target("intubation", FUSED, "auc", 0.843, 0.86, 0.89),
    Target("intubation", BEST_SINGLE, "auc", 0.795),
)
"""The best published accuracy and AUC on the 28-pixel version of the pneumonia test are its aims;
0.907 is the best published accuracy on pneumonia3."""


def measure() -> list[Row]:
    """Rows of every shipped task with a metrics.json; says which have none."""
    rows: list[Row] = []
    for paths in after("evaluate", "tasks", shipped_tasks()):
        task, metrics = paths.task, read_json(paths.reports / METRICS_FILE)
        rows += [*_targets(task, metrics), *_gain(task, metrics), *_every(task, metrics)]
        for part in metrics.get("populations", {}).values():
            for row in _every(task, part):
                name = f"{part['title']}, {row.row}"
                rows.append(row.model_copy(update={"table": POPULATIONS, "row": name}))
    return rows


def _targets(task: str, metrics: Metrics) -> list[Row]:
    rows = []
    for target in (t for t in TARGETS if t.task == task):
        found = figure(metrics, target.inputs, target.metric)
        if found is not None:
            bounds = {"reference": target.floor, "must": target.must, "aim": target.aim}
            name = f"{target.inputs}, {division(metrics)}"
            rows.append(_row(task, name, target.metric, found, **bounds))
    return rows


def division(metrics: Metrics) -> str:
    """How the studies were divided, in words."""
    if metrics["protocol"] == "folds":
        times = metrics.get("divisions", {}).get("count", 1)
        several = f", {times} times" if times > 1 else ""
        return f"{metrics['folds']} folds by patient{several}"
    if metrics["protocol"] == "sites":
        return f"each of {metrics['folds']} sites left out"
    return "official test" if metrics["protocol"] == "official" else "test patients"


def _gain(task: str, metrics: Metrics) -> list[Row]:
    """Fused against the best single modality, on the studies that have all modalities."""
    gain = metrics.get("divisions", metrics).get("fusion_gain")
    if not gain or not gain["studies"]:
        return []
    figures = gain.get("macro") or next(iter(gain["findings"].values()))
    found = figures["difference"]
    if found.get("value") is None:
        return []
    difference = Figure(value=found["value"], ci95=found.get("ci95"), n=gain["studies"])
    named = f"{gain['fused']} minus {figures['best_single']}"
    return [_row(task, named, "auc", difference, reference=0.0)]


def _every(task: str, metrics: Metrics) -> list[Row]:
    rows = []
    for subset, seen in metrics.get("divisions", metrics)["subsets"].items():
        figures = dict(seen["findings"])
        if "macro" in seen:
            figures["macro"] = seen["macro"]
        for finding, values in figures.items():
            one = {"subsets": {subset: {"n": seen["n"], "findings": {finding: values}}}}
            for metric in METRICS:
                if (found := figure(one, subset, metric)) is not None:
                    rows.append(_row(task, f"{subset}: {finding}", metric, found, table=EVERY))
    return rows


def _row(task: str, row: str, metric: str, found: Figure, **more: Any) -> Row:
    return Row(task=task, row=row, metric=metric, seed=0, **found.model_dump(), **more)
