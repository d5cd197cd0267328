"""Clinical: features are kept, or drawn from a background of training studies and averaged over it
(interventional SHAP: Lundberg and Lee 2017; Janzing et al. 2020)."""

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.modality import Modality
from cxr_mm.explain.games.base import Game, Kept
from cxr_mm.explain.subject import Subject
from cxr_mm.explain.watch import UNWATCHED, Watch

ROWS = 1 << 16
"""Clinical vectors that go through the fusion together."""


class ClinicalGame(Game):
    """Clinical features as players; that one is missing is a value like any other."""

    modality: Modality = "tabular"

    def __init__(self, subject: Subject, target: Target, watch: Watch = UNWATCHED) -> None:
        super().__init__(subject, target, watch)
        bundle = subject.bundle
        assert subject.batch.tabular is not None
        self.vector = subject.batch.tabular
        self.others = torch.from_numpy(bundle.clinical.apply(bundle.background))
        owners = bundle.clinical.owners
        self._names = bundle.task.clinical_names
        self._owner = torch.tensor([self._names.index(owner) for owner in owners])
        self.BATCH = max(1, ROWS // len(self.others))

    @property
    def names(self) -> tuple[str, ...]:
        return self._names

    @property
    def kind(self) -> str:
        return "clinical"

    def _logits(self, kept: Kept) -> NDArray[np.float64]:
        columns = torch.from_numpy(kept)[:, self._owner]  # (K, T)
        rows = torch.where(columns[:, None], self.vector[None], self.others[None])
        logits = self.subject.of_clinical(rows.flatten(0, 1))
        means: NDArray[np.float64] = logits.reshape(*rows.shape[:2], -1).mean(axis=1)
        return means
