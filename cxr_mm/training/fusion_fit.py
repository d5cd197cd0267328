"""Fit a fusion to the embeddings of a task's studies, all in memory."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

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
from cxr_mm.data.embeddings import load_copies, load_embeddings, load_parts
from cxr_mm.data.manifest import Manifest
from cxr_mm.models.decision import Conformal, OperatingPoints
from cxr_mm.models.fusion import Fusion, Late, Part
from cxr_mm.models.optim import minimise
from cxr_mm.training.erasure import read_concepts
from cxr_mm.training.losses import masked_loss
from cxr_mm.training.reweight import read_strata


@contextmanager
def single_threaded() -> Iterator[None]:
    """Restrict torch to one thread, so that a fit is reproducible to the bit."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


BATCH = 256
LEARNING_RATE, WEIGHT_DECAY = 2e-3, 5e-2
"""Of the perceptrons (`concat`, `gated`): peak learning rate, with a cosine to zero."""
Rows = tuple[dict[Modality, Tensor], Tensor, Tensor]
"""Inputs, mask (B, 3), labels (B, F)."""


@single_threaded()
def train_fusion(fusion: Fusion, rows: Rows, problem: Problem, params: FuseParams) -> None:
    """Fit the network of a fusion in place; it is left in evaluation mode.

    `late` goes to the optimum of its posterior by L-BFGS; the perceptrons take AdamW.

    Args:
        fusion: standard scores already fitted.
        rows: all training studies, inputs as `Fusion.clean` gives them.
        problem: of the task.
        params: epochs and modality dropout.
    """
    network, studies = fusion.network, len(rows[1])
    weights = [weight for weight in network.parameters() if weight.requires_grad]
    fusion.train()

    def loss(batch: Rows) -> Tensor:
        """Negative log posterior per study."""
        inputs, mask, labels = batch
        views = network.training_views(inputs, mask, params.modality_dropout)
        fits = [_error(logits, visible, labels, problem) for logits, visible in views]
        return torch.stack(fits).sum() + network.penalty() / studies

    if weights and isinstance(network, Late):
        (batch,) = _shuffled(rows, studies)
        minimise(weights, lambda: loss(batch), steps=params.epochs)
    elif weights:
        _descend(weights, loss, rows, params.epochs)
    fusion.eval().requires_grad_(False)


def _error(logits: Tensor, visible: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """Negative log likelihood of the findings, per study of the batch."""
    labels = torch.where(visible.unsqueeze(1), labels, torch.nan)
    known = (~labels.isnan()).sum() / len(labels)
    if problem == "multiclass":
        known = known / labels.shape[1]
    return masked_loss(logits, labels, problem, torch.ones(2, labels.shape[1])) * known


def _descend(
    weights: Sequence[Tensor], loss: Callable[[Rows], Tensor], rows: Rows, epochs: int
) -> None:
    optimiser = torch.optim.AdamW(weights, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * -(-len(rows[1]) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(epochs):
        for batch in _shuffled(rows, BATCH):
            optimiser.zero_grad()
            loss(batch).backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()


def _shuffled(rows: Rows, size: int) -> Iterator[Rows]:
    """Batches of the rows, in a new order at each call."""
    inputs, mask, labels = rows
    for chosen in torch.split(torch.randperm(len(mask)), size):
        yield {m: values[chosen] for m, values in inputs.items()}, mask[chosen], labels[chosen]


@dataclass(frozen=True)
class FittedFusion:
    """A fitted fusion, its clinical transform, operating points and conformal bounds."""

    fusion: Fusion
    transform: ClinicalTransform
    points: OperatingPoints
    conformal: Conformal = field(default_factory=dict)


Index = NDArray[np.int64]


@dataclass(frozen=True)
class Studies:
    """Embeddings, clinical features (not yet transformed), labels and groups of all studies.

    `parts`: parts of each embedding; a modality that is not in it has one part.
    `image_head`: weights (F, D) and bias (F,) of the head that an image encoder was trained with.
    `copies`: embeddings (K, N, D) of corrupted copies of the images.
    `concepts`: (N, C) what is to be erased from the image embeddings, NaN where not known.
    `strata`: (N,) group, independently of which studies are drawn for training.
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
    copies: Tensor | None = None
    concepts: NDArray[np.float64] | None = None
    strata: NDArray[np.object_] | None = None

    def inputs(self, transform: ClinicalTransform) -> dict[Modality, Tensor]:
        """Inputs of every study, with clinical features by a fitted transform."""
        inputs = dict(self.embeddings)
        if "tabular" in self.task.modalities:
            inputs["tabular"] = torch.from_numpy(transform.apply(self.clinical))
        return {m: inputs[m] for m in MODALITIES if m in inputs}

    def training_rows(self, transform: ClinicalTransform, rows: Index) -> Rows:
        """Rows that a network learns from: the studies, then their copies with the image alone.

        The other modalities of a copy are hidden, or they would count once for each.
        """
        inputs = {m: values[rows] for m, values in self.inputs(transform).items()}
        mask, labels = self.mask[rows], self.labels[rows]
        if self.copies is None:
            return inputs, mask, labels
        times = 1 + len(self.copies)
        hidden = mask.clone()
        hidden[:, [m != "image" for m in MODALITIES]] = False
        inputs = {m: values.repeat(times, 1) for m, values in inputs.items()}
        inputs["image"][len(rows) :] = self.copies[:, rows].flatten(0, 1)
        masks = torch.cat([mask, hidden.repeat(times - 1, 1)])
        return inputs, masks, labels.repeat(times, 1)

    def corrupted(self) -> list["Studies"]:
        """The studies with each of the corrupted copies in the place of the images."""
        copies = () if self.copies is None else self.copies
        return [replace(self, embeddings={**self.embeddings, "image": copy}) for copy in copies]

    def having(self, rows: Index, subset: Tensor) -> Index:
        """Rows whose studies have every modality of a subset, given as a mask (3,)."""
        complete = self.mask[torch.from_numpy(rows)][:, subset].all(1)
        having: Index = rows[complete.numpy()]
        return having


def load_studies(
    manifest: Manifest, table: pd.DataFrame, paths: TaskPaths, params: FuseParams
) -> Studies:
    """Load the studies of a manifest with their embeddings, groups and what is to be erased.

    Raises:
        StageError: `embed` has not run, or no study has what is to be erased or reweighted.
    """
    embeddings = {m: torch.from_numpy(rows) for m, rows in load_embeddings(paths).items()}
    stored = load_parts(paths)
    parts = {m: tuple(Part(**part) for part in stored[m]) for m in MODALITIES if m in stored}
    copies = load_copies(paths)
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
        copies=None if copies is None else torch.from_numpy(copies),
        concepts=read_concepts(manifest, params.erase, paths),
        strata=read_strata(manifest, params.reweight),
    )
