"""Studies: all studies of a task as the fusion reads them, rows as in the manifest."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.contracts.manifest import Manifest
from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.contracts.task import Task
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.embeddings import load_embeddings, load_parts
from cxr_mm.models.standardise import Part
from cxr_mm.paths import TaskPaths

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
