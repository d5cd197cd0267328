"""Training of an image encoder with Lightning: module, curves, checkpoints, precision."""

import copy
import logging
import math
import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from dvclive import Live
from lightning.pytorch.callbacks import EMAWeightAveraging, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from timm.models import group_parameters
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler
from tqdm import tqdm

from cxr_mm.core.config import TrainImageParams
from cxr_mm.core.errors import ParamsError, StageError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.progress import UNTRACKED, ProgressBar, Tracking
from cxr_mm.core.task import Problem
from cxr_mm.imaging.augment import augment
from cxr_mm.imaging.tensors import normalise
from cxr_mm.models.backbones import STAGES
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import MEASURED_ON, Precision, choose_precision
from cxr_mm.training.history import CHOSEN_BY, Epoch
from cxr_mm.training.losses import (
    calibrated_loss,
    class_weights,
    known_labels,
    masked_loss,
    mean_auc,
)
from cxr_mm.training.pixel_dataset import LabelledSquares, PixelDataset, identity_collate
from cxr_mm.training.shared_norm import SharedBatchNorm

LAST_STAGE_SHARE = 0.2
WARM_UP = 0.2
FEWEST_STEPS = 6
"""Of a cycle: the warm-up of fewer would have no step, by which torch divides."""
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ImageModule(L.LightningModule):  # type: ignore[misc]
    """Lightning module of an image encoder with its head.

    Every random number depends on seed and step alone, so that a resumed training continues exactly
    as an uninterrupted one would.
    """

    weights: Tensor

    def __init__(
        self,
        encoder: ImageEncoder,
        problem: Problem,
        weights: Tensor,
        params: TrainImageParams,
        precision: Precision,
    ) -> None:
        super().__init__()
        self.encoder, self.problem, self.params = encoder, problem, params
        self.precision = precision
        self.register_buffer("weights", weights)
        self._validated: list[tuple[Tensor, Tensor]] = []
        choose_trainable(encoder, params.trainable)
        encoder.to(memory_format=precision.memory_format)  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> "ImageModule":
        """Switch to training mode; frozen batch norms keep their running statistics."""
        super().train(mode)
        for module in self.encoder.backbone.modules():
            if isinstance(module, BATCH_NORMS) and not _learns(module):
                module.eval()
        return self

    def on_train_epoch_start(self) -> None:
        # Lightning leaves each module in the mode it finds it in.
        self.train()

    def training_step(self, batch: LabelledSquares, batch_idx: int) -> Tensor:  # noqa: ARG002
        squares, labels = batch
        seed = self._seed(self.global_step)
        torch.manual_seed(seed)  # dropout and stochastic depth draw from the global generator
        generator = torch.Generator(squares.device).manual_seed(seed)
        images = augment(normalise(squares), self.params.augment, generator)
        with SharedBatchNorm() if self.trainer.world_size > 1 else nullcontext():
            logits = self.encoder.logits(self.encoder(self.precision.arrange(images)))
        smoothing = self.params.label_smoothing
        loss = masked_loss(logits, labels, self.problem, self.weights, smoothing)
        loss = loss * self._share(labels)
        self.log(
            "train_loss", loss, on_step=False, on_epoch=True, sync_dist=True, batch_size=len(labels)
        )
        return loss

    def _share(self, labels: Tensor) -> Tensor | float:
        """Known labels of this device over those of a device on average.

        The gradients of the devices are averaged: weighted so, they add up to that of the mean over
        all labels of the step, as on one device.
        """
        if self.trainer.world_size == 1:
            return 1.0
        own = known_labels(labels, self.problem).sum().float()
        average: Tensor = self.all_gather(own).mean().clamp(min=1 / self.trainer.world_size)
        return own / average

    def validation_step(self, batch: LabelledSquares, batch_idx: int) -> None:  # noqa: ARG002
        squares, labels = batch
        images = self.precision.arrange(normalise(squares))
        logits = self.encoder.logits(self.encoder(images)).float()
        self._validated.append((logits, labels))

    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        if self.trainer.world_size > 1:
            logits, labels = (self._of_all_devices(t) for t in (logits, labels))
        loss = masked_loss(logits, labels, self.problem, self.weights)
        calibrated = calibrated_loss(logits, labels, self.problem, self.weights)
        auc = mean_auc(logits, labels, self.problem)
        values = {"val_loss": loss, "val_calibrated_loss": calibrated, "val_auc": auc}
        self.log_dict(values, prog_bar=True)

    def _of_all_devices(self, rows: Tensor) -> Tensor:
        """Rows in the data set's order, without those that the sampler repeats to share evenly."""
        of_all: Tensor = self.all_gather(rows).transpose(0, 1).flatten(0, 1)
        return of_all[: len(self.trainer.val_dataloaders.dataset)]

    def configure_optimizers(self) -> dict[str, Any]:
        """AdamW with one cycle (Smith & Topin 2019); norms and biases do not decay."""
        params, decay = self.params, self.params.weight_decay
        backbone = [p for p in self.encoder.backbone.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in backbone if p.ndim > 1], "lr": params.lr},
            {"params": [p for p in backbone if p.ndim <= 1], "lr": params.lr, "weight_decay": 0.0},
            {"params": [self.encoder.head.weight], "lr": params.head_lr},
            {"params": [self.encoder.head.bias], "lr": params.head_lr, "weight_decay": 0.0},
        ]
        optimiser = torch.optim.AdamW(groups, weight_decay=decay, fused=True)
        steps = max(int(self.trainer.estimated_stepping_batches), FEWEST_STEPS)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, [g["lr"] for g in optimiser.param_groups], steps, pct_start=WARM_UP
        )
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _seed(self, count: int) -> int:
        words = [self.params.seed, count, self.global_rank]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def choose_trainable(encoder: ImageEncoder, trainable: str) -> None:
    """Unfreeze the head and, of the backbone, nothing, its last stage, its upper part, or all.

    The last stage is the last layers, by timm's coarse grouping, that together have at least a
    fifth of the backbone's parameters; the upper part is everything after the first of the last
    three stages.

    Raises:
        ParamsError: the backbone does not name its stages.
    """
    encoder.backbone.requires_grad_(trainable in ("all", "upper"))
    if trainable == "last_stage":
        _free_last_stage(encoder.backbone)
    elif trainable == "upper":
        _freeze_lower(encoder)


def _free_last_stage(backbone: Any) -> None:
    matcher = backbone.group_matcher(coarse=True)
    layers: dict[int, list[str]] = group_parameters(backbone, matcher)
    wanted = LAST_STAGE_SHARE * sum(p.numel() for p in backbone.parameters())
    for layer in sorted(layers, reverse=True):
        for name in layers[layer]:
            backbone.get_parameter(name).requires_grad_(True)
            wanted -= backbone.get_parameter(name).numel()
        if wanted <= 0:
            return


def _freeze_lower(encoder: ImageEncoder) -> None:
    """Freeze all up to the end of the stage; modules are registered in the order they run in."""
    stages: Any = getattr(encoder.backbone, "feature_info", ())
    if len(stages) < STAGES:
        raise ParamsError(
            f"{encoder.spec.backbone} does not name its stages",
            field="train_image.trainable",
            remedy="Use frozen, last_stage or all",
        )
    last = stages[-STAGES]["module"]
    reached = False
    for name, module in encoder.backbone.named_modules():
        inside = name == last or name.startswith(f"{last}.")
        if reached and not inside:
            return
        reached |= inside
        for parameter in module.parameters(recurse=False):
            parameter.requires_grad_(False)


def _learns(module: nn.Module) -> bool:
    return any(p.requires_grad for p in module.parameters(recurse=False))


CURVES = {
    "train_loss": "train/loss",
    "val_loss": "val/loss",
    CHOSEN_BY: "val/calibrated_loss",
    "val_auc": "val/auc",
}


class _FilesOnly(Live):  # type: ignore[misc]
    """DVCLive that writes its files and touches no repository.

    DVCLive otherwise looks for a DVC repository even without an experiment, creates and stages one
    in the user's Git repository, and fails in one without commits.
    """

    def _init_dvc(self) -> None:
        self._dvc_repo = None


def open_curves(folder: Path) -> Live:
    """Start curves in a folder, empty."""
    return _FilesOnly(str(folder), save_dvc_exp=False, dvcyaml=None, report=None)


def add_epoch(live: Live, epoch: Epoch) -> None:
    """Add one epoch, without figures that are not finite."""
    for name, curve in CURVES.items():
        if math.isfinite(epoch[name]):
            live.log_metric(curve, epoch[name])
    live.next_step()


class CurveCallback(L.Callback):  # type: ignore[misc]
    """Callback that writes each epoch's figures as DVCLive curves and into the checkpoint, and
    tells them to a tracking server."""

    def __init__(self, folder: Path, tracking: Tracking) -> None:
        self.folder, self.tracking, self.history = folder, tracking, list[Epoch]()
        self._live: Live | None = None

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.history = list(state_dict["history"])

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if trainer.is_global_zero:
            self._live = open_curves(self.folder)
            for epoch in self.history:
                self._add(self._live, epoch)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        figures = {name: float(trainer.callback_metrics[name]) for name in CURVES}
        self.history.append({"epoch": float(trainer.current_epoch), **figures})
        if self._live is not None:
            self._add(self._live, self.history[-1])

    def _add(self, live: Live, epoch: Epoch) -> None:
        add_epoch(live, epoch)
        figures = {curve: epoch[name] for name, curve in CURVES.items()}
        self.tracking.figures(figures, int(epoch["epoch"]))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:  # noqa: ARG002
        if self._live is not None:
            self._live.end()


class _ProgressBar(TQDMProgressBar):  # type: ignore[misc]
    """Progress bar that ends with a training that fails; Lightning leaves it on the terminal.

    In a log it says how far it is from time to time, where Lightning would redraw it.
    """

    def init_train_tqdm(self) -> "tqdm[Any]":
        return self._bar(super().init_train_tqdm)

    def init_validation_tqdm(self) -> "tqdm[Any]":
        return self._bar(super().init_validation_tqdm)

    def _bar(self, on_terminal: "Callable[[], tqdm[Any]]") -> "tqdm[Any]":
        if sys.stderr.isatty():
            return on_terminal()
        return ProgressBar(desc="train", unit="step", disable=self.is_disabled)

    def on_exception(self, *args: object) -> None:
        del args
        for bar in (self._train_progress_bar, self._val_progress_bar):
            if bar is not None:
                bar.close()


NOISE = (
    ".*does not have many workers.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*isinstance\\(treespec, LeafSpec\\).*",
    ".*sync_dist=True.* across devices.*",  # figures that are of all devices already
    ".*all_gather is deprecated.*",
)


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Suppress Lightning's progress messages and known warnings."""
    logger = logging.getLogger("lightning.pytorch")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            for message in NOISE:
                warnings.filterwarnings("ignore", message)
            yield
    finally:
        logger.setLevel(before)


STARTED_BY = {"torchrun": "WORLD_SIZE", "srun": "SLURM_STEP_NUM_TASKS"}
"""Program that starts processes → the variable that says how many."""


def _check_started(params: TrainImageParams) -> None:
    """Raise unless as many processes were started as train together: each would train alone."""
    together = params.devices * params.num_nodes
    for program, variable in STARTED_BY.items():
        started = int(os.environ.get(variable, together))
        if started != together:
            raise ParamsError(
                f"{program} started {started} processes, but {together} are to train together",
                field="train_image: devices, num_nodes",
                remedy=f"Name the devices of each machine and the machines, {started} together",
            )


@contextmanager
def _naming_what_is_not_there() -> Iterator[None]:
    """Name devices that a trainer cannot be made for as what they are.

    Raises:
        ParamsError: this machine, or the job of SLURM, has others.
    """
    try:
        yield
    except (ValueError, MisconfigurationException) as error:
        raise ParamsError(
            f"Lightning cannot train so ({str(error).splitlines()[0]})",
            field="train_image: accelerator, devices, num_nodes, strategy",
            remedy="Name what this machine, or the job of SLURM, has",
        ) from error


@contextmanager
def _naming_a_lost_process(trainer: L.Trainer) -> Iterator[None]:
    """Name the loss of another process of the training as what it is.

    Raises:
        StageError: one of the processes ended.
    """
    try:
        yield
    except RuntimeError as error:
        lost = isinstance(error, torch.distributed.DistError) or "gloo" in str(error)
        if trainer.world_size == 1 or not lost:
            raise
        raise StageError(
            f"another of the {trainer.world_size} processes that train together has ended"
            f" ({str(error).splitlines()[0]})",
            field="train_image.devices",
            remedy="Read what that process printed, then run the stage again: it goes on from the"
            " last whole epoch",
        ) from error


_log = logging.getLogger(__name__)
ENCODER = "encoder."
PRECISION = "precision.json"


@dataclass(frozen=True)
class ImageFit:
    """Figures of each epoch of a training, and the precision it ran in."""

    history: list[Epoch]
    precision: str


def fit_image_encoder(
    encoder: ImageEncoder,
    train: PixelDataset,
    val: PixelDataset,
    problem: Problem,
    params: TrainImageParams,
    folder: Path,
    curves: Path,
    tracking: Tracking = UNTRACKED,
) -> ImageFit:
    """Train the encoder in place, or resume a training that was interrupted.

    Args:
        encoder: as built; ends with the weights of its best epoch.
        train, val: rows to learn from and rows to choose the best epoch on.
        problem: as of the task.
        params: as of the stage.
        folder: of the checkpoints; it belongs to these data and parameters alone.
        curves: folder for the DVCLive curves.
        tracking: is told the figures of each epoch.

    Raises:
        ParamsError: accelerator, devices or strategy that are not there, or are not the job's.
        StageError: one of the processes that train together ended.
    """
    choose_trainable(encoder, params.trainable)
    precision = _precision(encoder, train, params, folder)
    weights = torch.ones(2, train.labels.shape[1])
    if params.class_weights:
        weights = class_weights(torch.from_numpy(train.labels), problem)
    # A copy, since a strategy may cut up the modules that it is given.
    module = ImageModule(copy.deepcopy(encoder), problem, weights, params, precision)
    history = CurveCallback(curves, tracking)
    trainer, best = _trainer(params, precision, folder, history)
    last = folder / "last.ckpt"
    if last.is_file():
        _log.warning("resuming the interrupted training from %s", last)
    with silence_lightning(), _naming_a_lost_process(trainer):
        trainer.fit(
            module,
            _loader(train, params, trainer, shuffle=True),
            _loader(val, params, trainer, shuffle=False),
            ckpt_path=last if last.is_file() else None,
            weights_only=True,
        )
    if trainer.is_global_zero:  # which removes the checkpoints as soon as it has written its own
        checkpoint = torch.load(best.best_model_path, map_location="cpu", weights_only=True)
        state = checkpoint["state_dict"]
        own = {name: state[f"{ENCODER}{name}"] for name in encoder.state_dict()}
        encoder.load_state_dict(own)
    encoder.cpu().eval()
    return ImageFit(history.history, precision.name)


def _trainer(
    params: TrainImageParams, precision: Precision, folder: Path, history: CurveCallback
) -> tuple[L.Trainer, ModelCheckpoint]:
    best = ModelCheckpoint(folder, "best", monitor=CHOSEN_BY, enable_version_counter=False)
    last = ModelCheckpoint(
        folder, "last", enable_version_counter=False, save_on_train_epoch_end=True
    )
    _check_started(params)
    callbacks: list[L.Callback] = [history, best, last, _ProgressBar(refresh_rate=5)]
    if params.ema_decay:
        callbacks.append(EMAWeightAveraging(decay=params.ema_decay))
    with silence_lightning(), _naming_what_is_not_there():
        trainer = L.Trainer(
            accelerator=params.accelerator,
            devices=params.devices,
            num_nodes=params.num_nodes,
            strategy=params.strategy,
            precision="bf16-mixed" if precision.name == "bf16" else "32-true",
            max_epochs=params.epochs,
            callbacks=callbacks,
            default_root_dir=folder,
            logger=False,
            num_sanity_val_steps=0,
            enable_model_summary=False,
        )
    return trainer, best


def _loader(
    dataset: PixelDataset, params: TrainImageParams, trainer: L.Trainer, *, shuffle: bool
) -> DataLoader[LabelledSquares]:
    """Batches; the order of each epoch depends on the seed and the epoch's number alone."""
    sampler: DistributedSampler[LabelledSquares] = DistributedSampler(
        dataset,
        trainer.world_size,
        trainer.global_rank,
        shuffle=shuffle,
        seed=params.seed,
        drop_last=shuffle,
    )
    return DataLoader(
        dataset,
        batch_size=params.batch_size // trainer.world_size,
        sampler=sampler,
        collate_fn=identity_collate,
        # A last batch of one image would leave batch normalisation nothing to normalise by.
        drop_last=shuffle and len(dataset) > params.batch_size,
    )


def _precision(
    encoder: ImageEncoder, train: PixelDataset, params: TrainImageParams, folder: Path
) -> Precision:
    """Choose the precision once per training; a resumed one continues in the same."""
    stored = folder / PRECISION
    if stored.is_file():
        return Precision(**read_json(stored))
    cuda = params.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    squares, _ = train.__getitems__(range(min(MEASURED_ON, len(train))))
    sample = normalise(squares).to(device)
    chosen = choose_precision(encoder.to(device), sample, wanted=params.precision, training=True)
    encoder.cpu()
    write_json(stored, asdict(chosen))
    return chosen
