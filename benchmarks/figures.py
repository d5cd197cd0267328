"""Figures: single ones out of the metrics.json that `evaluate` leaves."""

import os
from pathlib import Path
from typing import Any

from cxr_mm.contracts.frozen import Frozen
from cxr_mm.contracts.modality import MODALITIES
from cxr_mm.files import read_json
from cxr_mm.paths import TaskPaths

RUNS_VARIABLE = "CXR_MM_RUNS"
FUSED, BEST_SINGLE, AVAILABLE = "fused", "best single", "available"
Metrics = dict[str, Any]


class Figure(Frozen):
    """A metric of one subset of modalities."""

    value: float
    ci95: tuple[float, float] | None
    n: int


def shipped_metrics(task: str) -> Metrics | None:
    """What `dvc repro` left for a task below CXR_MM_RUNS (default: here); None where nothing."""
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    file = TaskPaths(task, root).reports / "metrics.json"
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
    return None if seen is None else _read(whole(seen), metric, seen["n"])


def whole(seen: Metrics) -> Metrics:
    """Figures of one subset over all its findings."""
    found: Metrics = seen.get("macro") or next(iter(seen["findings"].values()))
    return found


def _read(values: Metrics, metric: str, n: int) -> Figure | None:
    found = values.get(metric)
    if not isinstance(found, dict) or found.get("value") is None:
        return None
    return Figure(value=found["value"], ci95=found.get("ci95"), n=n)
