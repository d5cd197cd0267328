"""Parts `ablation`, `ablation-training`: what one change from a task's shipped default brings.

The defaults are params.yaml and the task's YAML; what a change leaves as it is, is no row. Kinds of
fusion are compared by part `fusion`, on the same embeddings and folds.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.accuracy.tasks import TARGETS
from benchmarks.harness.parts import Row
from benchmarks.harness.report import AVAILABLE, BEST_SINGLE, FUSED, figure
from benchmarks.harness.runs import Finished, Overrides, Setting, attempt, setting
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.evaluation.metrics import Scored, auc, average_precision, counted
from cxr_mm.evaluation.resampling import Estimate, mean_of, multiplicities
from cxr_mm.evaluation.subsets import scored_of, subset_rows

Weights = NDArray[np.uint16]


def difference(
    task: Task,
    ours: Sequence[pd.DataFrame],
    theirs: Sequence[pd.DataFrame],
    inputs: str,
    metric: str,
    params: EvaluateParams,
) -> Estimate | None:
    """A metric of `ours` minus that of `theirs`; None where they are not of the same studies.

    Args:
        task: whose findings are averaged over.
        ours, theirs: held-out predictions as `fuse` leaves them, a table for each division.
        inputs: a subset of modalities, or `fused`.
        metric: `auc`, `average_precision` or one that counts, as `accuracy`.
        params: resamples and seed.
    """
    subset = AVAILABLE if inputs == FUSED else inputs
    first, second = ([subset_rows(table, subset) for table in side] for side in (ours, theirs))
    keys = ["study_id", "group"]
    if first[0].empty or not first[0][keys].equals(second[0][keys]):
        return None
    weights = multiplicities(first[0]["group"], params.bootstrap, params.seed)
    means = [
        mean_of([_estimate(task, rows, metric, weights) for rows in side])
        for side in (first, second)
    ]
    return means[0] - means[1]


def _estimate(task: Task, rows: pd.DataFrame, metric: str, weights: Weights) -> Estimate:
    if task.problem == "multiclass" and metric == "accuracy":
        return _of(_right_class(task, rows), metric, weights)
    found = []
    for finding in task.finding_names:
        scored, stored = scored_of(rows, finding)
        found.append(_of(scored, metric, weights[:, stored]))
    return mean_of(found)


def _of(scored: Scored, metric: str, weights: Weights) -> Estimate:
    if metric in ("auc", "average_precision"):
        measure = auc if metric == "auc" else average_precision
        return Estimate(float(measure(scored)[0]), measure(scored, weights))
    return Estimate(float(counted(scored)[metric][0]), counted(scored, weights)[metric])


def _right_class(task: Task, rows: pd.DataFrame) -> Scored:
    """Whether the likeliest class is the true one, as if it were a finding."""
    labels, result = (
        rows[[f"{part}.{name}" for name in task.finding_names]].to_numpy(np.float64)
        for part in ("label", "positive")
    )
    right = (labels * result).sum(axis=1) > 0
    return Scored(np.ones(len(rows)), right.astype(np.float64), right)


FROZEN_PART, TRAINING_PART = "ablation", "ablation-training"
TRAINED = ("pneumonia", "pneumonia3")
"""Tasks whose encoder learns, so that each row takes a training."""
DEFAULT = "shipped default"


@dataclass(frozen=True)
class Change:
    """One change of a task's parameters."""

    task: str
    row: str
    overrides: Overrides


def each(task: str, parameter: str, *values: Any) -> Iterator[Change]:
    """A change for each value of `section.parameter`; the default among them is left out later."""
    section, _, name = parameter.partition(".")
    for value in values:
        yield Change(task, f"{parameter} {value}", {section: {name: value}})


_FROZEN: Overrides = {
    "train_image": {"trainable": "frozen"},
    "fuse": {"calibrate_on": "cross_fit"},
}
_SCRATCH: Overrides = {
    "train_image": {"backbone": "small_cnn", "weights": "none", "trainable": "all"},
}


def _of_training(task: str) -> tuple[Change, ...]:
    """Changes of a task whose encoder learns."""
    return (
        *each(task, "train_image.seed", 1),
        *each(task, "train_image.augment", "none", "light", "strong"),
        *each(task, "train_image.trainable", "last_stage", "upper", "all"),
        Change(task, "train_image.trainable frozen", _FROZEN),
        *each(task, "train_image.ema_decay", 0.0),
        *each(task, "train_image.label_smoothing", 0.0),
        *each(task, "train_image.class_weights", False),
        *each(task, "train_image.pool", "last", "stages"),
        *each(task, "train_image.mirror", True, False),
        *each(task, "ingest.size", 128, 224),
    )


def _of_frozen(task: str) -> tuple[Change, ...]:
    """Changes of a task whose encoder stays as it came."""
    return (
        *each(task, "train_image.pool", "last", "stages"),
        *each(task, "train_image.mirror", True, False),
        *each(task, "ingest.size", 160, 224, 320),
        *each(task, "fuse.image_scale", 0.5, 1.5, 4.0),
    )


CHANGES: tuple[Change, ...] = (
    *_of_training("pneumonia"),
    Change("pneumonia", "small_cnn from scratch", _SCRATCH),
    *_of_training("pneumonia3"),
    *_of_frozen("effusion"),
    *(
        change
        for task in ("covid", "icu", "intubation")
        for change in (
            *_of_frozen(task),
            *each(task, "fuse.tabular_scale", 1.0, 4.0),
            *each(task, "fuse.note_scale", 1.0, 4.0),
            *each(task, "embed.note_words", 0),
        )
    ),
)


def measure() -> list[Row]:
    """Tasks whose encoder stays as it came."""
    return _measured(FROZEN_PART, [c.task for c in CHANGES if c.task not in TRAINED])


def measure_training() -> list[Row]:
    """Tasks whose encoder learns."""
    return _measured(TRAINING_PART, [c.task for c in CHANGES if c.task in TRAINED])


def _measured(part: str, tasks: list[str]) -> list[Row]:
    """The default of each task, and each change from it."""
    rows: list[Row] = []
    for task in dict.fromkeys(tasks):
        base = attempt(task, ungated({}), DEFAULT)
        if base is None:
            continue
        rows += _rows(part, Change(task, DEFAULT, {}), base, None)
        for change in effective(task):
            done = attempt(task, ungated(change.overrides), change.row)
            if done is not None:
                rows += _rows(part, change, done, base)
    return rows


def ungated(overrides: Overrides) -> Overrides:
    """Without the input gate, which takes most of a run's time and changes no figure."""
    return {**overrides, "fuse": {**overrides.get("fuse", {}), "gate_images": 0}}


def effective(task: str) -> list[Change]:
    """Changes of a task that do change something."""
    default = setting(task, {}).paths
    own = (change for change in CHANGES if change.task == task)
    return [change for change in own if setting(task, change.overrides).paths != default]


def asked_of(task: str) -> list[tuple[str, str]]:
    """Inputs and metrics that the targets of a task name; AUC of the fused where none do."""
    found = [(t.inputs, t.metric) for t in TARGETS if t.task == task and t.inputs != BEST_SINGLE]
    return found or [(FUSED, "auc")]


def _rows(part: str, change: Change, done: Finished, base: Finished | None) -> list[Row]:
    chosen = setting(change.task, change.overrides)
    rows = []
    for inputs, metric in asked_of(change.task):
        found = figure(done.metrics, inputs, metric)
        if found is None:
            continue
        row = Row(
            table=f"ablation: {change.task}",
            task=change.task,
            row=change.row,
            metric=f"{inputs} {metric}",
            value=found.value,
            ci95=found.ci95,
            n=found.n,
            seed=chosen.params.train_image.seed,
            seconds=done.total_seconds,
            device=done.device,
            command=f"make benchmark PART={part}",
        )
        rows.append(row)
        if base is not None and (gain := _gain(chosen, done, base, inputs, metric)):
            rows.append(row.model_copy(update={"metric": f"{row.metric} gain", **gain}))
    return rows


def _gain(
    chosen: Setting, done: Finished, base: Finished, inputs: str, metric: str
) -> dict[str, Any] | None:
    """What a difference row says; None where the two are not of the same studies."""
    found = difference(
        chosen.task, done.heldout, base.heldout, inputs, metric, chosen.params.evaluate
    )
    if found is None or (result := found.to_json())["value"] is None:
        return None
    return {
        "value": result["value"],
        "ci95": result["ci95"] and tuple(result["ci95"]),
        "reference": 0.0,
    }
