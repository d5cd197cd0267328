"""FusionModule: how a fusion learns, as a Lightning module over embeddings held in memory."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import lightning as pl
import torch
from torch import Tensor

from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.task import Problem
from cxr_mm.models.fusion import Fusion, Joint, Late
from cxr_mm.params import FuseParams
from cxr_mm.training.loss import masked_loss
from cxr_mm.training.quiet import quiet
from cxr_mm.training.threads import one_thread

Rows = tuple[dict[Modality, Tensor], Tensor, Tensor]
"""Inputs, mask (B, 3), labels (B, F)."""


@dataclass(frozen=True)
class ShuffledRows:
    """All rows in memory, in batches, in a new order each epoch."""

    inputs: Mapping[Modality, Tensor]
    mask: Tensor
    labels: Tensor
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.mask) // self.batch_size)

    def __iter__(self) -> Iterator[Rows]:
        for rows in torch.split(torch.randperm(len(self.mask)), self.batch_size):
            inputs = {m: values[rows] for m, values in self.inputs.items()}
            yield inputs, self.mask[rows], self.labels[rows]


class FusionModule(pl.LightningModule):  # type: ignore[misc]
    """Trains a fusion's members, each on its own draw of hidden modalities.

    Args:
        fusion: standard scores already fitted.
        problem: of the task.
        params: learning rate, decay, modality dropout.
        studies: number of training studies, against which the prior is weighed.
        steps: number of optimiser steps in all.
        class_weight: (2, F) as of `loss.class_weights`.
    """

    def __init__(
        self,
        fusion: Fusion,
        problem: Problem,
        params: FuseParams,
        studies: int,
        steps: int,
        class_weight: Tensor,
    ) -> None:
        super().__init__()
        self.fusion, self.problem, self.params = fusion, problem, params
        self.studies, self.steps, self.class_weight = studies, steps, class_weight

    def training_step(self, batch: Rows, _: int) -> Tensor:
        """Negative log posterior per study, averaged over members."""
        inputs, mask, labels = batch
        losses = []
        for member in self._members():
            rehearsed = member.rehearse(inputs, mask, self.params.modality_dropout)
            fits = [self._fit(logits, seen, labels) for logits, seen in rehearsed]
            losses.append(torch.stack(fits).sum() + member.penalty() / self.studies)
        return torch.stack(losses).mean()

    def _members(self) -> list[Late | Joint]:
        return list(self.fusion.members)  # type: ignore[arg-type]

    def _fit(self, logits: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """Negative log likelihood of the findings, per study of the batch."""
        labels = torch.where(seen.unsqueeze(1), labels, torch.nan)
        answered = (~labels.isnan()).sum() / len(labels)
        if self.problem == "multiclass":
            answered = answered / labels.shape[1]
        return masked_loss(logits, labels, self.problem, self.class_weight) * answered

    def configure_optimizers(self) -> object:
        """`late` goes to the optimum of its posterior by L-BFGS, within the one step that it has;
        the others take AdamW with a cosine to zero."""
        weights = [w for w in self.fusion.members.parameters() if w.requires_grad]
        if self.fusion.spec.kind == "late":
            return torch.optim.LBFGS(
                weights, max_iter=self.params.epochs, line_search_fn="strong_wolfe"
            )
        optimiser = torch.optim.AdamW(
            weights, lr=self.params.lr, weight_decay=self.params.weight_decay
        )
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.steps)
        return {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def train_fusion(module: FusionModule, rows: ShuffledRows) -> None:
    """Run the loop; the fusion is changed in place and left in evaluation mode.

    Args:
        module: what learns.
        rows: inputs as `Fusion.clean` leaves them.
    """
    late = module.fusion.spec.kind == "late"
    with one_thread(), quiet():
        trainer = pl.Trainer(
            max_epochs=1 if late else module.params.epochs,
            accelerator="cpu",
            devices=1,
            barebones=True,
        )
        trainer.fit(module, rows)
    module.fusion.eval().requires_grad_(False)
