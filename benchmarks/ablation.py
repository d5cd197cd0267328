"""Parts `ablation`, `ablation-training`: what one change from a task's shipped default brings.

The defaults are params.yaml and the task's YAML; what a change leaves as it is, is no row. Kinds of
fusion are compared by part `fusion`, on the same embeddings and folds.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from benchmarks.figures import BEST_SINGLE, FUSED, figure
from benchmarks.paired import difference
from benchmarks.rows import Row
from benchmarks.runs import Finished, attempt
from benchmarks.setting import Overrides, Setting, setting
from benchmarks.tasks import TARGETS

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
    """Without the film gate, which takes most of a run's time and changes no figure."""
    return {**overrides, "fuse": {**overrides.get("fuse", {}), "gate_films": 0}}


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
    if found is None or (said := found.to_json())["value"] is None:
        return None
    return {"value": said["value"], "ci95": said["ci95"] and tuple(said["ci95"]), "reference": 0.0}
