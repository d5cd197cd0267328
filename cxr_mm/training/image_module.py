"""Image training as Lightning runs it: one step, one validation, one optimiser."""

from typing import Any

import lightning as L  # noqa: N812
import numpy as np
import torch
from timm.models import group_parameters
from torch import Tensor, nn

from cxr_mm.contracts.task import Problem
from cxr_mm.data.augment import augment
from cxr_mm.data.dataset import LabelledSquares
from cxr_mm.data.transform import normalise
from cxr_mm.errors import ParamsError
from cxr_mm.models.backbone import STAGES
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import Precision
from cxr_mm.params import TrainImageParams
from cxr_mm.training.loss import calibrated_loss, masked_loss, mean_auc

LAST_STAGE_SHARE = 0.2
WARM_UP = 0.2
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


class ImageModule(L.LightningModule):  # type: ignore[misc]
    """Trains an image encoder with its head.

    All chance is drawn from seed and step, so that a resumed training goes on exactly as
    an uninterrupted one would have.
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
        """Training mode, except that what does not learn keeps its running statistics."""
        super().train(mode)
        for module in self.encoder.backbone.modules():
            if isinstance(module, BATCH_NORMS) and not _learns(module):
                module.eval()
        return self

    def on_train_epoch_start(self) -> None:
        # Lightning itself leaves each part in the mode it finds it in.
        self.train()

    def training_step(self, batch: LabelledSquares, batch_idx: int) -> Tensor:  # noqa: ARG002
        squares, labels = batch
        seed = self._seed(self.global_step)
        torch.manual_seed(seed)  # dropout and stochastic depth draw from the global generator
        generator = torch.Generator(squares.device).manual_seed(seed)
        images = augment(normalise(squares), self.params.augment, generator)
        logits = self.encoder.logits(self.encoder(self.precision.arrange(images)))
        smoothing = self.params.label_smoothing
        loss = masked_loss(logits, labels, self.problem, self.weights, smoothing)
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(labels))
        return loss

    def validation_step(self, batch: LabelledSquares, batch_idx: int) -> None:  # noqa: ARG002
        squares, labels = batch
        images = self.precision.arrange(normalise(squares))
        logits = self.encoder.logits(self.encoder(images)).float()
        self._validated.append((logits, labels))

    def on_validation_epoch_end(self) -> None:
        logits, labels = (torch.cat(parts) for parts in zip(*self._validated, strict=True))
        self._validated.clear()
        if self.trainer.world_size > 1:
            logits, labels = (_joined(self.all_gather(t)) for t in (logits, labels))
        loss = masked_loss(logits, labels, self.problem, self.weights)
        calibrated = calibrated_loss(logits, labels, self.problem, self.weights)
        auc = mean_auc(logits, labels, self.problem)
        values = {"val_loss": loss, "val_calibrated_loss": calibrated, "val_auc": auc}
        self.log_dict(values, prog_bar=True)

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
        steps = max(int(self.trainer.estimated_stepping_batches), 2)
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
    """Let the head learn and, of the backbone, nothing, its last stage, its upper part, or all.

    The last stage is the last layers, by timm's coarse grouping, that together hold at least a
    fifth of the backbone's parameters; the upper part is what comes behind the first of the last
    three stages.

    Raises:
        ParamsError: the backbone does not say where its stages are.
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
    """Modules are registered in the order they run in: freeze up to the end of the stage."""
    stages: Any = getattr(encoder.backbone, "feature_info", ())
    if len(stages) < STAGES:
        raise ParamsError(
            f"{encoder.spec.backbone} does not say where its stages are",
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


def _joined(gathered: Tensor) -> Tensor:
    """(world, B, F) → (world * B, F)."""
    return gathered.flatten(0, 1)
