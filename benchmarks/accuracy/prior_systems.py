"""Parts `prior-systems` and `prior-systems-hub`: four single-notebook systems by configuration.

Their recipes: effusion against no finding with a frozen ResNet50V2, global pooling, a dense layer
and dropout; pneumonia against normal with a CNN from scratch, and with ResNet50 and VGG16 whose
last layers were fine-tuned; the same in three classes; and a CNN from scratch against a frozen and
a fine-tuned one. Their augmentation of the smaller class is class weights and light augmentation.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.accuracy.ablation import ungated
from benchmarks.accuracy.tasks import division
from benchmarks.harness.outputs import (
    Figure,
    Metrics,
    fields_of,
    figure,
    paths_of,
    shipped_metrics,
)
from benchmarks.harness.parts import Row
from benchmarks.harness.runs import Overrides, Wanted, attempt, setting, side_by_side
from cxr_mm.core.config import (
    EmbedParams,
    FuseParams,
    IngestParams,
    Params,
    TrainImageParams,
    for_task,
    load_params,
)
from cxr_mm.core.task import load_task
from cxr_mm.evaluation.metrics import Scored
from cxr_mm.evaluation.resampling import Estimate, Weights, multiplicities
from cxr_mm.evaluation.subsets import scored_of, subset_rows

INPUTS = "image"
"""All of them saw the image alone."""
SPECIFICITY = 0.9
MATCHED = f"sensitivity at specificity {SPECIFICITY:g}"
"""Read off the ROC curve of the test studies, so that no choice of operating point is in it."""
METRICS = {
    "effusion": ("auc", "accuracy", MATCHED),
    "pneumonia": ("accuracy", "auc", "specificity", MATCHED),
    "pneumonia3": ("accuracy",),
}
PLAIN: dict[str, Any] = {
    "pool": "last",
    "mirror": False,
    "resolution": None,
    "augment": "light",
    "class_weights": True,
    "label_smoothing": 0.0,
    "ema_decay": 0.0,
}
"""What a notebook of theirs did, whatever the defaults of this project are."""
LITE0 = "tf_efficientnet_lite0"
EFFUSION = {"auc": 0.952, "accuracy": 0.908}


@dataclass(frozen=True)
class Recipe:
    """One network of one prior system."""

    task: str
    system: str
    backbone: str
    weights: Literal["none", "packaged", "hub"]
    trainable: Literal["frozen", "last_stage", "all"]
    px: int
    train: dict[str, Any] = field(default_factory=dict)
    """Further parameters of `train_image`."""
    claimed: dict[str, float] = field(default_factory=dict)

    @property
    def overrides(self) -> Overrides:
        """The whole of the sections it concerns, so that no default of the task's gets in."""
        learns = self.trainable != "frozen"
        named = {"backbone": self.backbone, "weights": self.weights, "trainable": self.trainable}
        train = TrainImageParams(**{**PLAIN, **named, **self.train})
        shipped = for_task(load_params(), load_task(self.task)).fuse
        fuse = FuseParams(
            calibrate_on="validation" if learns else "cross_fit",
            calibrate_prevalence=shipped.calibrate_prevalence,
            operating_point=shipped.operating_point,
            gate_images=0,
        )
        sections: Overrides = {
            "ingest": IngestParams(size=self.px).model_dump(),
            "train_image": train.model_dump(),
            "embed": EmbedParams().model_dump(),
            "fuse": fuse.model_dump(),
        }
        if learns and self.task == "effusion":  # else cross-validated, which no encoder may be
            sections["split"] = {"protocol": "patient"}
        return sections

    @property
    def name(self) -> str:
        """System and recipe, read off the parameters that it runs with."""
        return f"{self.system}: {described(setting(self.task, self.overrides).params)}"


def described(params: Params) -> str:
    """A recipe in words: network, weights, what learns, size and epochs."""
    train = params.train_image
    weights = "from scratch" if train.weights == "none" else f"ImageNet ({train.weights})"
    learns = {"frozen": "frozen", "last_stage": "last stage learns", "all": "all learns"}
    words = [f"{train.backbone} {weights}", f"{params.ingest.size} px"]
    if train.weights != "none":
        words.insert(1, learns.get(train.trainable, train.trainable))
    if train.trainable != "frozen":
        words.append(f"{train.epochs} epochs")
    return ", ".join(words)


_CNN = Recipe("pneumonia", "CNN", "small_cnn", "none", "all", 96, {"epochs": 3}, {"accuracy": 0.86})
_RESNET50 = Recipe(
    "pneumonia", "ResNet50", "resnet50", "none", "all", 96, {"epochs": 2}, {"accuracy": 0.82}
)
# Without normalisation it needs small steps; large batches, because its optimiser is slow.
_SLOW: dict[str, Any] = {"epochs": 2, "lr": 1e-4, "head_lr": 1e-3, "batch_size": 64}
_VGG16 = Recipe("pneumonia", "VGG16", "vgg16", "none", "all", 96, _SLOW, {"accuracy": 0.92})
_TRANSFER = replace(
    _CNN,
    system="transfer, last layers",
    backbone=LITE0,
    weights="packaged",
    trainable="last_stage",
    claimed={"accuracy": 0.92},
)
_THREE: dict[str, Any] = {"task": "pneumonia3", "claimed": {"accuracy": 0.94}}
RECIPES = (
    Recipe("effusion", "ResNet50V2", LITE0, "packaged", "frozen", 224, {}, EFFUSION),
    Recipe("effusion", "ResNet50V2", "resnetv2_50", "none", "all", 128, {"epochs": 10}, EFFUSION),
    _CNN,
    _TRANSFER,
    _RESNET50,
    _VGG16,
    *(replace(recipe, **_THREE) for recipe in (_CNN, _TRANSFER, _RESNET50)),
    replace(_CNN, system="scratch", claimed={}),
    replace(_TRANSFER, system="frozen", trainable="frozen", train={}, claimed={}),
    replace(_TRANSFER, system="fine-tuned", claimed={}),
    replace(_TRANSFER, system="fine-tuned", trainable="all", claimed={}),
)
"""For two cores: the packaged backbone, and each architecture from scratch."""

_FULL: dict[str, Any] = {"px": 224, "train": {"epochs": 20}}
_TUNED: dict[str, Any] = {**_FULL, "weights": "hub", "trainable": "last_stage"}
_TUNED_VGG16 = {**_TUNED, "train": {**_VGG16.train, "epochs": 20}}
OURS, OURS_SMALL = "shipped default", "shipped default at their budget"
SMALL: Overrides = {"ingest": {"size": 96}, "train_image": {"epochs": 3}}
"""Pixels and epochs of the prior systems that are trained here."""
HUB_RECIPES = (
    Recipe("effusion", "ResNet50V2", "resnetv2_50", "hub", "frozen", 224, {}, EFFUSION),
    replace(_CNN, **_FULL),
    replace(_RESNET50, **_TUNED),
    replace(_VGG16, **_TUNED_VGG16),
    replace(_CNN, **_THREE, **_FULL),
    replace(_RESNET50, **_THREE, **_TUNED),
    replace(_VGG16, **_THREE, **_TUNED_VGG16),
    replace(_CNN, **_FULL, system="scratch", claimed={}),
    replace(
        _RESNET50, system="frozen", px=224, weights="hub", trainable="frozen", train={}, claimed={}
    ),
    replace(_RESNET50, **_TUNED, system="fine-tuned", claimed={}),
    replace(_RESNET50, **{**_TUNED, "trainable": "all"}, system="fine-tuned", claimed={}),
)
"""For a machine with a model hub, and a GPU or patience."""


def measure() -> list[Row]:
    """The recipes that run on two cores without a hub."""
    return _rows(RECIPES)


def measure_hub() -> list[Row]:
    """The recipes at full size with the weights of the hub."""
    return _rows(HUB_RECIPES)


def _rows(recipes: tuple[Recipe, ...]) -> list[Row]:
    """What was claimed, what each recipe gives here, and what the shipped defaults give."""
    rows = []
    wanted = [Wanted(recipe.task, recipe.overrides, recipe.name) for recipe in recipes]
    for recipe, done in zip(recipes, side_by_side(wanted), strict=True):
        if done is None:
            continue
        ours, name = _shipped(recipe.task), f"{recipe.name}; {division(done.metrics)}"
        for metric, found in _figures(done.metrics, done.heldout[0]).items():
            default = ours.get(metric)
            beside = {"reference": default and default.value, "claimed": recipe.claimed.get(metric)}
            rows.append(done.row(metric, found, row=name, seed=0, **beside))
    return [*rows, *_ours(dict.fromkeys(recipe.task for recipe in recipes))]


def _ours(tasks: Iterable[str]) -> Iterator[Row]:
    """Rows of the shipped defaults, and of the same recipe with as many pixels and epochs."""
    for task in tasks:
        params = setting(task, {}).params
        for metric, found in _shipped(task).items():
            yield Row(
                task=task,
                row=f"{OURS}: {described(params)}",
                metric=metric,
                seed=0,
                **found.model_dump(),
            )
        if params.train_image.trainable == "frozen":
            continue
        done = attempt(task, ungated(SMALL), OURS_SMALL)
        if done is not None:
            name = f"{OURS_SMALL}: {described(setting(task, SMALL).params)}"
            for metric, found in _figures(done.metrics, done.heldout[0]).items():
                yield done.row(metric, found, row=name, seed=0)


def _shipped(task: str) -> dict[str, Figure]:
    """Figures of what `dvc repro` left; none where it has not run."""
    metrics, file = shipped_metrics(task), paths_of(task).heldout
    return _figures(metrics, pd.read_parquet(file)) if metrics and file.is_file() else {}


def _figures(metrics: Metrics, heldout: pd.DataFrame) -> dict[str, Figure]:
    """Those of `METRICS` that are defined, of the predictions from the image alone."""
    task = str(metrics["task"])
    found = {metric: figure(metrics, INPUTS, metric) for metric in METRICS[task]}
    if MATCHED in METRICS[task]:
        found[MATCHED] = _matched(task, subset_rows(heldout, INPUTS))
    return {metric: own for metric, own in found.items() if own}


def _matched(task: str, rows: pd.DataFrame) -> Figure:
    (finding,) = load_task(task).finding_names
    scored, labelled = scored_of(rows, finding)
    params = setting(task, {}).params.evaluate
    weights = multiplicities(rows["group"], params.bootstrap, params.seed)[:, labelled]
    once = np.ones((1, len(scored)), np.uint16)
    found = Estimate(float(sensitivity_at(scored, once)[0]), sensitivity_at(scored, weights))
    return Figure(n=len(scored), **fields_of(found))


def sensitivity_at(
    scored: Scored, weights: Weights, specificity: float = SPECIFICITY
) -> NDArray[np.float64]:
    """Highest sensitivity (B,) of a threshold whose specificity is at least so high.

    Args:
        scored: N studies.
        weights: (B, N) how often each study counts.
        specificity: in [0, 1].
    """
    order = np.argsort(-scored.probabilities, kind="stable")
    last = np.append(np.diff(scored.probabilities[order]) != 0, True)  # of equal scores
    positive, negative = (
        np.cumsum(weights[:, order] * (scored.labels[order] == label), axis=1) for label in (1, 0)
    )
    allowed = last & (negative <= (1 - specificity) * negative[:, -1:] + 1e-9)
    return np.asarray(np.where(allowed, positive, 0).max(axis=1) / positive[:, -1])
