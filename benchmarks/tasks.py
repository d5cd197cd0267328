"""Part `tasks`: held-out metrics of every task that `dvc repro` has run, beside a floor.

The floors are frozen ImageNet `tf_efficientnet_lite0` features (for the note, MiniLM) with logistic
regression under the same protocol, one run each, no tuning beyond the penalty.
"""

from pathlib import Path
from typing import Any

from benchmarks.rows import Row
from cxr_mm.data.tasks import shipped_tasks
from cxr_mm.files import read_json

COMMAND = "make benchmark PART=tasks"
METRICS = ("auc", "average_precision", "accuracy", "sensitivity", "specificity", "brier", "ece")
FLOORS: dict[tuple[str, str, str], float] = {
    ("pneumonia", "image", "auc"): 0.963,
    ("pneumonia", "image", "accuracy"): 0.848,
    ("pneumonia", "image", "specificity"): 0.615,
    ("pneumonia3", "image", "accuracy"): 0.776,
    ("pneumonia3", "image", "auc"): 0.937,
    ("effusion", "image", "auc"): 0.872,
    ("effusion", "image", "average_precision"): 0.63,
    ("covid", "image", "auc"): 0.746,
    ("covid", "tabular", "auc"): 0.685,
    ("covid", "note", "auc"): 0.823,
    ("covid", "available", "auc"): 0.849,
    ("icu", "image", "auc"): 0.822,
    ("icu", "tabular", "auc"): 0.755,
    ("icu", "note", "auc"): 0.696,
    ("icu", "image+tabular", "auc"): 0.869,
    ("icu", "available", "auc"): 0.861,
}


def measure() -> list[Row]:
    """Rows of every task with a metrics.json below reports/."""
    rows: list[Row] = []
    for task in shipped_tasks():
        file = Path("reports") / task / "metrics.json"
        if file.is_file():
            rows += _task(task, read_json(file))
    return rows


def _task(task: str, metrics: dict[str, Any]) -> list[Row]:
    rows = []
    for subset, seen in metrics["subsets"].items():
        figures = dict(seen["findings"])
        if len(figures) > 1:
            figures = {**figures, "macro": seen["macro"]}
        for finding, values in figures.items():
            whole = len(figures) == 1 or finding == "macro"
            for metric in METRICS:
                found = values.get(metric)
                if not isinstance(found, dict) or found.get("value") is None:
                    continue
                rows.append(
                    Row(
                        table="tasks",
                        task=task,
                        row=f"{subset}: {finding}",
                        metric=metric,
                        value=found["value"],
                        ci95=found.get("ci95"),
                        reference=FLOORS.get((task, subset, metric)) if whole else None,
                        n=seen["n"],
                        seed=0,
                        command=COMMAND,
                    )
                )
    return [*rows, *_gain(task, metrics)]


def _gain(task: str, metrics: dict[str, Any]) -> list[Row]:
    """Fused against the best single modality, on the studies that have all modalities."""
    gain = metrics.get("fusion_gain")
    if gain is None:
        return []
    figures = gain.get("macro") or next(iter(gain["findings"].values()))
    found = figures["difference"]
    if found.get("value") is None:
        return []
    row = Row(
        table="tasks",
        task=task,
        row=f"{gain['fused']} minus {figures['best_single']}",
        metric="auc difference",
        value=found["value"],
        ci95=found.get("ci95"),
        reference=0.0,
        n=gain["studies"],
        seed=0,
        command=COMMAND,
    )
    return [row]
