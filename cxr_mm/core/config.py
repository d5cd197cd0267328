"""Parameters: the frozen, typed mirror of params.yaml, one section per stage.

docs/reference/parameters.md is generated from it.
"""

from pathlib import Path
from typing import Any, Literal, Self

import yaml
from pydantic import Field, ValidationError, model_validator

from cxr_mm.core.errors import ParamsError, did_you_mean
from cxr_mm.core.task import Protocol, Task
from cxr_mm.core.types import Frozen, faults_of

PARAMS_FILE = Path("params.yaml")


class IngestParams(Frozen):
    """Manifest and pixel cache."""

    size: int = Field(224, ge=32, le=1024)
    """Side in pixels of the square that every radiograph is fitted into, the model's input."""
    mask_text: bool = False
    """Replace words burnt into an image (PORTABLE, a date) by what surrounds them before the model
    sees it, in training and in every later use of the bundle; side markers stay."""
    workers: int = Field(2, ge=1, le=64)
    """Processes that decode radiographs."""
    max_loss: float = Field(0.5, ge=0, le=1)
    """Largest share of the studies that may be left out, and of a column's values or of the images
    that may be unusable; more is an error that shows what was found and what the task expects."""


class SplitParams(Frozen):
    """Division by patient and the leakage audit."""

    protocol: Protocol | None = None
    """Replaces that of the task (`patient`, `official`, `folds` or `sites`); null keeps
    the task's."""
    folds: int | None = Field(None, ge=3, le=20)
    """Replaces the task's number of folds; null keeps it."""
    repeats: int | None = Field(None, ge=1, le=20)
    """Replaces the task's number of divisions into folds; null keeps it."""
    seed: int = 0
    """Of the division."""


class TrainImageParams(Frozen):
    """The image encoder and how it is trained."""

    backbone: str = "tf_efficientnet_lite0"
    """Any timm name, or `small_cnn`."""
    weights: str = "packaged"
    """`packaged` (from a Python package), `hub` (the model hub), `none`, or a safetensors file."""
    pool: Literal["last", "stages"] = "stages"
    """The embedding: what the backbone pools `last`, or that and the means of the two `stages`
    before, which still contain texture and position of a finding."""
    mirror: bool = True
    """Take the mean embedding of the image and its mirror image: slightly better, twice the time.
    Not for tasks about laterality or situs."""
    resolution: int | None = Field(None, ge=16)
    """Pixels a side that every image is brought to, and enlarged from, before the backbone, so that
    files stored large and small look alike; null for the image's own."""
    trainable: Literal["frozen", "last_stage", "upper", "all"] = "frozen"
    """What learns besides the classification head; `upper` is everything after the first of the
    last three stages, so that edges and textures stay as pretrained. A frozen encoder is used as
    it is; all parameters below apply to the others only."""
    epochs: int = Field(4, ge=1)
    """Passes over the training images; the epoch with the best calibrated validation loss is
    kept."""
    batch_size: int = Field(32, ge=2)
    """Images per step, of all devices together."""
    lr: float = Field(3e-4, gt=0)
    """Peak learning rate of the encoder (one cycle: warm-up, cosine)."""
    head_lr: float = Field(3e-3, gt=0)
    """Peak learning rate of the head."""
    weight_decay: float = Field(1e-2, ge=0)
    """Of AdamW; norms and biases do not decay."""
    dropout: float = Field(0.2, ge=0, lt=1)
    """Between embedding and head."""
    label_smoothing: float = Field(0.0, ge=0, lt=0.5)
    """Share of a label that is spread evenly over the classes."""
    class_weights: bool = True
    """Weight each class by the inverse of its share among the training rows."""
    augment: Literal["none", "light", "strong"] = "light"
    """Random changes of exposure, position and size; `strong` also of resolution and shape."""
    ema_decay: float = Field(0.0, ge=0, lt=1)
    """Decay of the moving average of the weights; 0 for no average."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """`auto` measures both at start and takes the faster."""
    accelerator: str = "auto"
    """As of Lightning: `auto`, `cpu`, `gpu`."""
    devices: int = Field(1, ge=1)
    """Devices of each machine that train together."""
    num_nodes: int = Field(1, ge=1)
    """Machines that train together; the stage is started on each, by `torchrun` or SLURM."""
    strategy: Literal["auto", "ddp", "ddp_find_unused_parameters_true", "fsdp"] = "auto"
    """How the devices share the work, by Lightning's names; `auto` is `ddp` for several."""
    seed: int = 0
    """Of initial weights, order of images, augmentation and dropout."""

    @model_validator(mode="after")
    def _check_devices(self) -> Self:
        together = self.devices * self.num_nodes
        if self.batch_size % together or self.batch_size < 2 * together:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be shared evenly by {together} devices, two"
                f" images or more each: use a multiple of {together}"
            )
        if self.num_nodes > 1 and self.precision == "auto":
            raise ValueError(
                "precision auto would be chosen on each machine for itself: name fp32 or bf16"
            )
        return self


class EmbedParams(Frozen):
    """Image and note embeddings."""

    note_encoder: str = "packaged"
    """`packaged` (all-MiniLM-L6-v2, trained on English), any transformers name, or a folder. Of
    other languages, `sentence-transformers/paraphrase-multilingual-MiniLM-L12-v2` reads fifty."""
    note_words: int = Field(4096, ge=0, le=65536)
    """Cells that the words of a note, pairs of them and pieces are each hashed into, beside its
    embedding; 0 leaves them out."""
    copies: int = Field(0, ge=0, le=16)
    """Copies of each image, corrupted as storing and exporting do, that the fusion learns from
    besides; each takes as long to embed as the images themselves."""
    seed: int = 0
    """Of the copies."""


CalibrationImages = Literal["stored", "corrupted"]


class FuseParams(Frozen):
    """Fusion, calibration, operating points and the input gate."""

    fusion: Literal["late", "concat", "gated"] = "late"
    """`late`: a linear head per part of a modality, then stacking; `concat`, `gated`: perceptrons
    over the projections of all modalities."""
    calibrate_on: Literal["cross_fit", "validation"] = "cross_fit"
    """`cross_fit`: out-of-fold logits of train and validation together, then a final fit on both;
    `validation`: fit on train, calibrate on validation (for an encoder fine-tuned on train)."""
    calibrate_images: CalibrationImages = "stored"
    """`corrupted`: calibrate on the copies that `embed.copies` made, for images that will come
    otherwise than those trained on; probabilities get less extreme."""
    calibrate_prevalence: Literal["training", "balanced"] = "training"
    """`balanced`: probabilities as if each class were as frequent, for a task whose studies were
    collected by class, so that their prevalence says nothing of the patients to come."""
    inner_folds: int = Field(5, ge=2, le=20)
    """Folds behind the out-of-fold logits of `cross_fit`."""
    image_scale: float = Field(1.5, gt=0)
    """`late`: prior standard deviation of the logit that each part of the image's embedding may
    give."""
    tabular_scale: float = Field(4.0, gt=0)
    """`late`: the same of the clinical features."""
    note_scale: float = Field(4.0, gt=0)
    """`late`: the same of each part of the note's embedding."""
    erase: tuple[Literal["quality", "view", "site"], ...] = ()
    """What a linear model must not be able to read off the image's embedding: the image quality
    statistics, the view or the site, known of the training studies alone (LEACE)."""
    erase_strength: float = Field(1.0, gt=0, le=1)
    """How much of it is taken out; below 1 some of it stays."""
    modality_dropout: float = Field(0.3, ge=0, lt=1)
    """`concat`, `gated`: chance that a present modality is hidden in a training step; at least one
    stays. `late` trains each modality alone instead."""
    epochs: int = Field(200, ge=1)
    """Passes over the training studies; `late`: the most iterations of L-BFGS."""
    coverage: float = Field(0.9, ge=0.5, lt=1)
    """Share of studies, of each class, whose true answer must not be ruled out; a finding is
    uncertain where neither answer is ruled out."""
    operating_point: Literal["youden", "high_sensitivity", "high_specificity"] = "youden"
    """The one that predictions use; the bundle contains all three. `youden` is the
    prevalence that the probabilities assume, where Youden's J is best if they are calibrated."""
    target_sensitivity: float = Field(0.95, gt=0, lt=1)
    """Least sensitivity of `high_sensitivity` on the calibration studies."""
    target_specificity: float = Field(0.95, gt=0, lt=1)
    """Least specificity of `high_specificity` on the calibration studies."""
    reweight: str | None = None
    """`view`, `site` or a clinical feature with categories: studies are drawn for training so that
    the answer is as frequent in each of its groups; null for all studies once."""
    gate_images: int = Field(200, ge=0)
    """Training images whose copies, valid and out-of-distribution, train the input gate; 0 for no
    gate."""
    seed: int = 0
    """Of inner folds, initial weights, out-of-distribution copies and the input gate."""


class EvaluateParams(Frozen):
    """Metrics and intervals."""

    bootstrap: int = Field(1000, ge=100)
    """Resamples of patients behind each 95 % interval."""
    characteristics: tuple[str, ...] = ("age", "sex", "view", "site")
    """What defines subgroups and is tested in the shortcut audit: `view`, `site`, or a clinical
    feature of the task (of the numbers only age, in bands). The report names those that the data
    lack."""
    shortcut_share: float = Field(0.5, gt=0, le=1)
    """Share of the model's AUC above 0.5 from which view, site or image quality alone raises a
    shortcut flag."""
    mitigate: tuple[Literal["thresholds", "recalibrate"], ...] = ()
    """What the report tries against gaps between subgroups, without any change of the bundle:
    thresholds of equal sensitivity, or recalibration, by group; cross-validated by patient."""
    seed: int = 0
    """Of the resamples and the folds of shortcut audit and mitigation."""


class ExplainParams(Frozen):
    """The gallery, and how faithful explanations are."""

    gallery: int = Field(8, ge=0)
    """Studies in the gallery: true and false positives and negatives in turn."""
    studies: int = Field(40, ge=0)
    """Held-out studies on which each quick method is measured; on fewer than 30 there is no
    verdict, 0 leaves them unmeasured."""
    slow_studies: int = Field(0, ge=0)
    """The same for methods that run the model hundreds of times, minutes a study on two cores; 0
    leaves them unmeasured."""
    localisation: int = Field(40, ge=0)
    """Studies with a true area, a mask or boxes, on which each quick image method is measured; on
    fewer than 30 there is no verdict."""
    boxes: str | None = None
    """CSV below the source's folder with boxes that readers drew around what they saw, a row for
    each `image`; null for none."""
    boxes_column: str = "rsna_boxes"
    """Its column of boxes: a JSON list of `[x, y, width, height]` in pixels of the image."""
    importance: int = Field(100, ge=1)
    """Studies over which the shares and SHAP values of inputs are averaged."""
    time_limit: float | None = Field(120, gt=0)
    """Seconds for the stage; what is left unmeasured then is said. null: no limit."""
    lung_masks: str | None = None
    """Folder with lung masks, each a PNG named as its image; null for no masks."""
    seed: int = 0
    """Of the choice of studies and of each method's samples."""


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
    """Newest studies that suffice for the reference of a retrained model; with fewer, the
    reference is made of held-out studies."""
    seed: int = 0
    """Of the windows and principal components."""


class Params(Frozen):
    """Contents of params.yaml."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Shipped tasks, or `tasks/NAME.yaml` beside params.yaml."""
    per_task: dict[str, dict[str, dict[str, Any]]] = Field(default_factory=dict, exclude=True)
    """Task → section → parameters; they override the sections below and the task's own."""
    ingest: IngestParams = Field(default_factory=IngestParams)
    split: SplitParams = Field(default_factory=SplitParams)
    train_image: TrainImageParams = Field(default_factory=TrainImageParams)
    embed: EmbedParams = Field(default_factory=EmbedParams)
    fuse: FuseParams = Field(default_factory=FuseParams)
    evaluate: EvaluateParams = Field(default_factory=EvaluateParams)
    explain: ExplainParams = Field(default_factory=ExplainParams)
    reference: ReferenceParams = Field(default_factory=ReferenceParams)

    @model_validator(mode="after")
    def _check_per_task(self) -> Self:
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
    """Parameters of one task: its own overrides, then those of `per_task`.

    Raises:
        ParamsError: an override names an unknown section or parameter, or is out of range.
    """
    own = _overridden(params, task.params, f"tasks/{task.name}: params")
    return _overridden(own, params.per_task.get(task.name, {}), f"per_task.{task.name}")


def _overridden(params: Params, overrides: dict[str, dict[str, Any]], where: str) -> Params:
    raw = params.model_dump()
    sections = [name for name in raw if name != "tasks"]
    for section, values in overrides.items():
        if section not in sections:
            raise ParamsError(
                "no such section",
                field=f"{where}.{section}",
                remedy=did_you_mean(section, sections, f"Sections are {', '.join(sections)}"),
            )
        raw[section] = {**raw[section], **values}
    return _checked(raw, where)


def with_split(task: Task, params: SplitParams) -> Task:
    """The task with the split of the parameters, where they set one."""
    split = {"protocol": params.protocol, "folds": params.folds, "repeats": params.repeats}
    changes = {name: value for name, value in split.items() if value is not None}
    return task.model_copy(update={"split": task.split.model_copy(update=changes)})


def _checked(raw: Any, where: str) -> Params:
    try:
        return Params.model_validate(raw)
    except ValidationError as error:
        field, message = faults_of(error, Params)
        raise ParamsError(
            message,
            field=f"{where}: {field}",
            remedy="docs/reference/parameters.md has every parameter with its range",
        ) from error
