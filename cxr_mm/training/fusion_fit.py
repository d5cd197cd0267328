"""FusionModule: how a fusion learns, as a Lightning module over embeddings held in memory."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import lightning as pl
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.config import FuseParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Problem, Task
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.embeddings import load_embeddings, load_parts
from cxr_mm.data.manifest import Manifest
from cxr_mm.models.decision import Conformal, OperatingPoints
from cxr_mm.models.fusion import Fusion, Joint, Late, Part
from cxr_mm.training.image_trainer import silence_lightning
from cxr_mm.training.losses import masked_loss


@contextmanager
def single_threaded() -> Iterator[None]:
    """Let torch use one thread, so that a fit gives the same to the bit whatever ran before."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


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
            rehearsed = member.training_views(inputs, mask, self.params.modality_dropout)
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
    with single_threaded(), silence_lightning():
        trainer = pl.Trainer(
            max_epochs=1 if late else module.params.epochs,
            accelerator="cpu",
            devices=1,
            barebones=True,
        )
        trainer.fit(module, rows)
    module.fusion.eval().requires_grad_(False)


@dataclass(frozen=True)
class Fitted:
    """A fusion with the clinical transform it was trained behind."""

    fusion: Fusion
    transform: ClinicalTransform
    points: OperatingPoints
    conformal: Conformal = field(default_factory=dict)


Index = NDArray[np.int64]


@dataclass(frozen=True)
class Studies:
    """Embeddings, clinical features (not yet transformed), labels and groups.

    `parts`: what an embedding is made of, where it is not of one piece.
    `image_head`: weights (F, D) and bias (F,) of the head that an image encoder learnt with.
    """

    task: Task
    embeddings: dict[Modality, Tensor]
    clinical: pd.DataFrame
    mask: Tensor
    labels: Tensor
    groups: NDArray[np.object_]
    ids: pd.DataFrame
    parts: dict[Modality, tuple[Part, ...]] = field(default_factory=dict)
    image_head: tuple[Tensor, Tensor] | None = None

    def inputs(self, transform: ClinicalTransform) -> dict[Modality, Tensor]:
        """Inputs of every study, clinical features by a transform fitted elsewhere."""
        found = dict(self.embeddings)
        if "tabular" in self.task.modalities:
            found["tabular"] = torch.from_numpy(transform.apply(self.clinical))
        return {m: found[m] for m in MODALITIES if m in found}

    def having(self, rows: Index, shown: Tensor) -> Index:
        """Those rows whose studies have every modality of a subset, given as a mask (3,)."""
        there = self.mask[torch.from_numpy(rows)][:, shown].all(1)
        having: Index = rows[there.numpy()]
        return having


def load_studies(manifest: Manifest, table: pd.DataFrame, paths: TaskPaths) -> Studies:
    """Studies of a manifest, grouped as `split` left them.

    Raises:
        StageError: `embed` has not run.
    """
    embeddings = {m: torch.from_numpy(rows) for m, rows in load_embeddings(paths).items()}
    said = load_parts(paths)
    parts = {m: tuple(Part(**part) for part in said[m]) for m in MODALITIES if m in said}
    ids = manifest.frame[["study_id", "patient_id"]].assign(group=table["group"].to_numpy())
    return Studies(
        task=manifest.task,
        embeddings={m: embeddings[m] for m in MODALITIES if m in embeddings},
        clinical=manifest.clinical(),
        mask=torch.from_numpy(manifest.mask()),
        labels=torch.from_numpy(manifest.labels()),
        groups=table["group"].to_numpy(object),
        ids=ids,
        parts=parts,
    )
