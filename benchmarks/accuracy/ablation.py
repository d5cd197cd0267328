"""Parts `ablation`, `ablation-training`: what one change from a task's shipped default brings.

The defaults are params.yaml and the task's YAML; what a change leaves as it is, is no row. Kinds of
fusion are compared by part `fusion`, on the same embeddings and folds.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from benchmarks.accuracy.tasks import TARGETS
from benchmarks.harness.outputs import BEST_SINGLE, FUSED, fields_of
from benchmarks.harness.parts import Row
from benchmarks.harness.runs import (
    Finished,
    Overrides,
    Setting,
    Wanted,
    setting,
    side_by_side,
)
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.evaluation.resampling import Estimate, Weights, mean_of, multiplicities
from cxr_mm.evaluation.subsets import class_accuracy, finding_estimates, subset_rows


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
        metric: as metrics.json names it.
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
        return class_accuracy(task, rows, weights)
    found = [finding_estimates(rows, name, weights)[metric] for name in task.finding_names]
    return mean_of(found)


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


ENCODER = {"train_image.pool": ("last", "stages"), "train_image.mirror": (True, False)}
LEARNING = {
    "train_image.seed": (1,),
    "train_image.augment": ("none", "light", "strong"),
    "train_image.trainable": ("last_stage", "upper", "all"),
    "train_image.ema_decay": (0.0,),
    "train_image.label_smoothing": (0.0,),
    "train_image.class_weights": (False,),
    **ENCODER,
    "ingest.size": (128, 224),
}
FROZEN = {**ENCODER, "ingest.size": (160, 224, 320), "fuse.image_scale": (0.5, 1.5, 4.0)}
SEVERAL = {
    **FROZEN,
    "fuse.tabular_scale": (1.0, 4.0),
    "fuse.note_scale": (1.0, 4.0),
    "embed.note_words": (0,),
}
"""Parameter → values, for tasks whose encoder learns or stays, or that have notes too."""
PARAMETERS = {
    **dict.fromkeys(TRAINED, LEARNING),
    "effusion": FROZEN,
    **dict.fromkeys(("covid", "icu", "intubation"), SEVERAL),
}
_FROZEN: Overrides = {"train_image": {"trainable": "frozen"}, "fuse": {"calibrate_on": "cross_fit"}}
_SCRATCH: Overrides = {
    "train_image": {"backbone": "small_cnn", "weights": "none", "trainable": "all"},
}
CHANGES: tuple[Change, ...] = (
    *(
        change
        for task, parameters in PARAMETERS.items()
        for parameter, values in parameters.items()
        for change in each(task, parameter, *values)
    ),
    *(Change(task, "train_image.trainable frozen", _FROZEN) for task in TRAINED),
    Change("pneumonia", "small_cnn from scratch", _SCRATCH),
)


def measure() -> list[Row]:
    """Tasks whose encoder stays as it came."""
    return _measured(c.task for c in CHANGES if c.task not in TRAINED)


def measure_training() -> list[Row]:
    """Tasks whose encoder learns."""
    return _measured(c.task for c in CHANGES if c.task in TRAINED)


def _measured(tasks: Iterable[str]) -> list[Row]:
    """The default of each task, and each change from it."""
    rows: list[Row] = []
    changes = [
        change
        for task in dict.fromkeys(tasks)
        for change in (Change(task, DEFAULT, {}), *effective(task))
    ]
    runs = side_by_side([Wanted(c.task, ungated(c.overrides), c.row) for c in changes])
    base: Finished | None = None
    for change, done in zip(changes, runs, strict=True):
        if change.row == DEFAULT:
            base = done
        if done is not None and base is not None:
            rows += _rows(change, done, base if done is not base else None)
    return rows


def ungated(overrides: Overrides) -> Overrides:
    """Without the input gate, which takes most of a run's time and changes no figure."""
    return {**overrides, "fuse": {**overrides.get("fuse", {}), "gate_images": 0}}


def effective(task: str) -> list[Change]:
    """Changes of a task that do change something."""
    default = setting(task, {}).paths
    own = (change for change in CHANGES if change.task == task)
    return [change for change in own if setting(task, change.overrides).paths != default]


def wanted_of(task: str) -> list[tuple[str, str]]:
    """Inputs and metrics that the targets of a task name; AUC of the fused where none do."""
    found = [(t.inputs, t.metric) for t in TARGETS if t.task == task and t.inputs != BEST_SINGLE]
    return found or [(FUSED, "auc")]


def _rows(change: Change, done: Finished, base: Finished | None) -> list[Row]:
    """The figures of a change, each followed by its gain over the default."""
    chosen, rows = setting(change.task, change.overrides), []
    facts = {"table": f"ablation: {change.task}", "row": change.row}
    for inputs, metric in wanted_of(change.task):
        seed, name = chosen.params.train_image.seed, f"{inputs} {metric}"
        found = done.rows(inputs, metric, **facts, seed=seed)
        rows += [row.model_copy(update={"metric": name}) for row in found]
        gain = found and base and _gain(chosen, done, base, inputs, metric)
        if gain:
            rows.append(found[0].model_copy(update={"metric": f"{name} gain", **gain}))
    return rows


def _gain(
    chosen: Setting, done: Finished, base: Finished, inputs: str, metric: str
) -> dict[str, Any] | None:
    """Fields of the row of a difference; None where the two are not of the same studies."""
    evaluate = chosen.params.evaluate
    found = difference(chosen.task, done.heldout, base.heldout, inputs, metric, evaluate)
    return None if found is None else {**fields_of(found), "reference": 0.0}
