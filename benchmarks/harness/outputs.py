"""Outputs: what `dvc repro` left below the folder in CXR_MM_RUNS (default: this one)."""

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.types import AVAILABLE, MODALITIES, Frozen
from cxr_mm.evaluation.resampling import Estimate, rounded

RUNS_VARIABLE = "CXR_MM_RUNS"
FUSED, BEST_SINGLE = "fused", "best single"
METRICS_FILE = "metrics.json"
OUTPUTS = {
    "train_image": "image_encoder/encoder.json",
    "embed": "embeddings",
    "fuse": "bundle",
    "evaluate": f"reports/{METRICS_FILE}",
}
"""Stage → attribute of `TaskPaths`, and a file in it, that exist once the stage has run."""
Metrics = dict[str, Any]


def paths_of(task: str) -> TaskPaths:
    """Paths of a task's outputs."""
    return TaskPaths(task, Path(os.environ.get(RUNS_VARIABLE) or "."))


def has_run(stage: str, paths: TaskPaths) -> bool:
    """Whether a stage of `OUTPUTS` has left its output."""
    attribute, _, file = OUTPUTS[stage].partition("/")
    return Path(getattr(paths, attribute), file).exists()


def after(stage: str, part: str, tasks: Iterable[str]) -> Iterator[TaskPaths]:
    """Paths of each task whose stage has run; the part prints its name, and who is left out."""
    for name in tasks:
        paths = paths_of(name)
        if has_run(stage, paths):
            print(f"{part}: {name}", flush=True)
            yield paths
        else:
            print(f"{part}: {name} is left out: run dvc repro {stage}@{name}")


def fields_of(found: Estimate) -> dict[str, Any]:
    """Value and interval of a row, rounded as reports are."""
    limits = found.interval
    return {"value": rounded(found.value), "ci95": limits and tuple(map(rounded, limits))}


class Figure(Frozen):
    """A metric of one subset of modalities."""

    value: float
    ci95: tuple[float, float] | None
    n: int


def shipped_metrics(task: str) -> Metrics | None:
    """Content of a task's metrics.json; None where there is none."""
    file = paths_of(task).reports / METRICS_FILE
    return read_json(file) if file.is_file() else None


def figure(metrics: Metrics, inputs: str, metric: str) -> Figure | None:
    """A metric of one finding, or of the mean over several; None where it is not defined.

    It is the mean over all divisions into folds where there are several.

    Args:
        metrics: content of metrics.json.
        inputs: a subset of modalities, `fused` (whatever a study has) or `best single` (the
            modality best at this metric on these studies).
        metric: as metrics.json names it.
    """
    if inputs == BEST_SINGLE:
        singles = [figure(metrics, modality, metric) for modality in MODALITIES]
        return max((f for f in singles if f), key=lambda f: f.value, default=None)
    subsets = metrics.get("divisions", metrics)["subsets"]
    seen = subsets.get(AVAILABLE if inputs == FUSED else inputs)
    if seen is None:
        return None
    found = (seen.get("macro") or next(iter(seen["findings"].values()))).get(metric)
    if not isinstance(found, dict) or found.get("value") is None:
        return None
    return Figure(value=found["value"], ci95=found.get("ci95"), n=seen["n"])
