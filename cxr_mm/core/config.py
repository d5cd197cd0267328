"""Params: the frozen, typed mirror of params.yaml; one section per stage."""

from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from cxr_mm.core.errors import ParamsError
from cxr_mm.core.task import Protocol, Task
from cxr_mm.core.types import Frozen

PARAMS_FILE = Path("params.yaml")


class IngestParams(Frozen):
    """Source → manifest and pixel cache."""

    size: int = Field(224, ge=32, le=1024)
    """Side in pixels of the square that every radiograph is fitted into, the model's input."""
    workers: int = Field(2, ge=1, le=64)
    """Processes that decode radiographs."""


class SplitParams(Frozen):
    """Division by patient and the leakage audit."""

    protocol: Protocol | None = None
    """In place of the task's own: `patient`, `official` or `folds`; empty keeps the task's."""
    folds: int | None = Field(None, ge=3, le=20)
    """In place of the task's own number of folds; empty keeps it."""
    repeats: int | None = Field(None, ge=1, le=20)
    """In place of the task's own number of divisions into folds; empty keeps it."""
    seed: int = 0
    near_duplicate_bits: int = Field(4, ge=0, le=32)
    """Two images whose 64-bit perceptual hashes differ in at most this many bits are listed."""


class TrainImageParams(Frozen):
    """The image encoder and how it is trained."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm name, or `small_cnn`."""
    weights: str = "packaged"
    """`packaged` (from a Python package), `hub` (the model hub), `none`, or a safetensors file."""
    pool: Literal["last", "stages"] = "stages"
    """The embedding: what the backbone pools `last`, or that and the means of the two `stages`
    before, where texture and place of a finding still are."""
    mirror: bool = True
    """Embed the image and its mirror image and take the mean: a little better for twice the time.
    A task about laterality or situs should not."""
    trainable: Literal["frozen", "last_stage", "upper", "all"] = "frozen"
    """What learns besides the classification head; `upper` is all behind the first of the last
    three stages, so that edges and textures stay as pretraining found them. Where it is frozen,
    the head is fitted to its optimum, and epochs, learning rates and augmentation play no part."""
    epochs: int = Field(4, ge=1)
    batch_size: int = Field(32, ge=2)
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate of the encoder (one cycle: warm-up, cosine)."""
    head_lr: float = Field(3e-3, gt=0)
    weight_decay: float = Field(1e-2, ge=0)
    dropout: float = Field(0.2, ge=0, lt=1)
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    class_weights: bool = True
    """Weight each class by the inverse of its share among the training rows."""
    augment: Literal["none", "light", "strong"] = "light"
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights; 0 keeps none."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures both at start and takes the faster."""
    workers: int = Field(0, ge=0)
    accelerator: str = "auto"
    devices: int = Field(1, ge=1)
    nodes: int = Field(1, ge=1)
    seed: int = 0


class EmbedParams(Frozen):
    """Image and note embeddings."""

    batch_size: int = Field(16, ge=1)
    note_encoder: str = "packaged"
    """`packaged` (all-MiniLM-L6-v2), any transformers name, or a folder."""
    note_tokens: int = Field(256, ge=8, le=512)
    """Longest note in tokens; the rest is cut."""
    note_words: int = Field(4096, ge=0, le=65536)
    """Cells that the words of a note, pairs of them and pieces are each hashed into, beside its
    embedding; 0 leaves them out."""
    precision: Literal["auto", "fp32", "bf16"] = "fp32"
    """fp32 is what a single prediction uses, so that both give the same embedding."""


class FuseParams(Frozen):
    """Fusion, calibration and operating points."""

    fusion: Literal["late", "concat", "gated"] = "late"
    calibrate_on: Literal["cross_fit", "validation"] = "cross_fit"
    """`cross_fit`: out-of-fold logits of train and validation together, then a final fit on both;
    `validation`: fit on train, calibrate on validation (for an encoder fine-tuned on train)."""
    inner_folds: int = Field(5, ge=2, le=20)
    """Folds behind the out-of-fold logits of `cross_fit`."""
    image_scale: float = Field(1.5, gt=0)
    """`late`: standard deviation, before any data is seen, of the logit that each part of the
    image's embedding may give."""
    tabular_scale: float = Field(4.0, gt=0)
    note_scale: float = Field(4.0, gt=0)
    hidden: int = Field(64, ge=4)
    """`concat`, `gated`: width each modality is projected to."""
    tabular_hidden: int = Field(16, ge=0)
    """`concat`, `gated`: width of the layer before it for clinical features; 0 for none."""
    dropout: float = Field(0.3, ge=0, lt=1)
    modality_dropout: float = Field(0.3, ge=0, lt=1)
    """Chance that a modality that is there is hidden in a training step; one always stays.
    `late` shows each modality alone instead."""
    members: int = Field(1, ge=1, le=64)
    """Networks trained side by side whose logits are averaged."""
    epochs: int = Field(200, ge=1)
    """`late`: iterations of L-BFGS over all rows at most."""
    batch_size: int = Field(256, ge=2)
    """`concat`, `gated`."""
    lr: float = Field(2e-3, gt=0)
    """`concat`, `gated`: peak learning rate (cosine to zero)."""
    weight_decay: float = Field(5e-2, ge=0)
    """`concat`, `gated`; `late` has the scales above instead."""
    class_weights: bool = False
    calibration_spread: float = Field(0.5, gt=0)
    """Standard deviation of a calibration's log weight around none, before any data is seen."""
    calibration: Literal["auto", "parametric", "isotonic"] = "auto"
    """`parametric`: Platt, temperature or stacking; `isotonic`: a monotone step after it, for each
    subset and finding; `auto`: that where there are studies enough. Multiclass is parametric."""
    isotonic_from: int = Field(1000, ge=100)
    """`auto`: held-out labelled studies from which isotonic is taken, 100 of the rarer class."""
    coverage: float = Field(0.9, ge=0.5, lt=1)
    """Share of studies, of each class, whose true answer may not be ruled out; where both
    answers are left the finding is uncertain."""
    operating_point: Literal["youden", "high_sensitivity", "high_specificity"] = "youden"
    """The one that predictions use; all are kept in the bundle."""
    target_sensitivity: float = Field(0.95, gt=0, lt=1)
    target_specificity: float = Field(0.95, gt=0, lt=1)
    gate_images: int = Field(200, ge=0)
    """Training images whose altered copies teach the input gate; 0 for no gate."""
    gate_refuse: float = Field(0.005, gt=0, lt=0.5)
    """Share of true images that the gate may refuse."""
    gate_warn: float = Field(0.02, gt=0, lt=0.5)
    """Share of true images that it may at least warn of."""
    seed: int = 0


class EvaluateParams(Frozen):
    """Metrics and intervals."""

    bootstrap: int = Field(1000, ge=100)
    """Resamples of patients behind each 95 % interval."""
    ece_bins: int = Field(10, ge=2)
    characteristics: tuple[str, ...] = ("age", "sex", "view", "site")
    """By what patients are told apart in subgroups and the shortcut audit: `view`, `site`, or a
    clinical feature of the task (of the numbers only age, which has bands). What the data does
    not know is left out and said."""
    age_bands: tuple[int, ...] = (18, 40, 60, 80)
    """Ages in years at which a band begins; the first band is all below the first of them."""
    smallest_group: int = Field(20, ge=2)
    """Studies below which a subgroup is listed without figures."""
    smallest_class: int = Field(5, ge=2)
    """Patients with a finding below which it has no FNR, without below which it has no FPR; AUC
    needs both."""
    probe_folds: int = Field(5, ge=2, le=20)
    """Folds by group in which the shortcut audit reads traits off the image embedding."""
    seed: int = 0

    @field_validator("age_bands")
    @classmethod
    def _rising(cls, bands: tuple[int, ...]) -> tuple[int, ...]:
        if not bands or bands[0] <= 0 or any(b <= a for a, b in pairwise(bands)):
            raise ValueError("age_bands must be above 0 and rise")
        return bands


class ExplainParams(Frozen):
    """The gallery, and how far explanations is faithful."""

    gallery: int = Field(8, ge=0)
    """Studies shown: true and false positives and negatives in turn."""
    studies: int = Field(12, ge=1)
    """Held-out studies on which each quick method is measured."""
    slow_studies: int = Field(6, ge=0)
    """The same for methods that ask the model hundreds of times; 0 leaves them unmeasured."""
    localisation: int = Field(30, ge=0)
    """Studies with ground-truth masks on which each quick image method is measured."""
    importance: int = Field(100, ge=1)
    """Studies over which the shares and SHAP values of inputs are averaged."""
    lung_masks: str | None = None
    """Folder with masks of the lungs, each a PNG named as its image; None where there are none."""
    seed: int = 0


class ReferenceParams(Frozen):
    """What monitoring compares against."""

    components: int = Field(16, ge=1, le=256)
    """Principal components kept of each embedding."""
    resamples: int = Field(200, ge=20)
    """Windows drawn from the reference to learn the thresholds."""
    false_alarm_rate: float = Field(0.05, gt=0, lt=0.5)
    """Share of undrifted windows that may alarm, over all columns together."""
    window_sizes: tuple[int, ...] = (20, 50, 100, 200, 500)
    """Window sizes for which thresholds are learnt."""
    newest_studies: int = Field(200, ge=1)
    """Newest studies that are enough for the reference of a model that is retrained; of fewer, it
    is of held-out studies."""
    seed: int = 0


class Params(Frozen):
    """Everything that params.yaml may say."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Shipped tasks, or `tasks/NAME.yaml` beside params.yaml."""
    per_task: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict, exclude=True)
    """Task → section → parameters, on top of the sections below and of the task's own."""
    ingest: IngestParams = Field(default_factory=IngestParams)
    split: SplitParams = Field(default_factory=SplitParams)
    train_image: TrainImageParams = Field(default_factory=TrainImageParams)
    embed: EmbedParams = Field(default_factory=EmbedParams)
    fuse: FuseParams = Field(default_factory=FuseParams)
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    explain: ExplainParams = Field(default_factory=ExplainParams)
    reference: ReferenceParams = Field(default_factory=ReferenceParams)

    @model_validator(mode="after")
    def _of_these_tasks(self) -> Self:
        if unknown := sorted(set(self.per_task) - set(self.tasks)):
            raise ValueError(f"per_task: {', '.join(unknown)} is not among tasks")
        return self


def load_params(path: Path = PARAMS_FILE) -> Params:
    """Read params.yaml.

    Raises:
        ParamsError: the file is missing, is not YAML, or a parameter is unknown or out of range.
    """
    try:
        raw = yaml.safe_load(path.read_text())
    except FileNotFoundError as error:
        raise ParamsError(
            "no such file", field=str(path), remedy="Run this from the project's folder"
        ) from error
    except OSError as error:
        raise ParamsError(f"cannot be read ({error.strerror})", field=str(path)) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ParamsError(f"not YAML: {error}", field=str(path)) from error
    return _checked(raw, str(path))


def for_task(params: Params, task: Task) -> Params:
    """The parameters of one task: its own overrides on top, and `per_task` on top of these.

    Raises:
        ParamsError: an override names an unknown section or parameter, or is out of range.
    """
    own = _overridden(params, task.params, f"tasks/{task.name}: params")
    return _overridden(own, params.per_task.get(task.name, {}), f"per_task.{task.name}")


def _overridden(params: Params, overrides: dict[str, dict[str, Any]], where: str) -> Params:
    raw = params.model_dump()
    for section, values in overrides.items():
        if section not in raw or section == "tasks":
            raise ParamsError(
                "no such section",
                field=f"{where}.{section}",
                remedy=f"Sections are {', '.join(s for s in raw if s != 'tasks')}",
            )
        raw[section] = {**raw[section], **values}
    return _checked(raw, where)


def with_split(task: Task, params: SplitParams) -> Task:
    """The task, divided as the parameters say where they say anything of it."""
    said = {"protocol": params.protocol, "folds": params.folds, "repeats": params.repeats}
    changes = {name: value for name, value in said.items() if value is not None}
    return task.model_copy(update={"split": task.split.model_copy(update=changes)})


def _checked(raw: Any, where: str) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "top level"
        raise ParamsError(first["msg"], field=f"{where}: {field}") from error
