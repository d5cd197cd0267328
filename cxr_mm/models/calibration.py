"""Calibration: columns of evidence → logits whose probabilities mean what they say.

One for each subset of modalities: a positive weight per column and a bias per finding, by stacking
(`cxr_mm.models.stacking`) on studies the networks were not trained on. Columns that are parts of
one modality are first made one, in the same way whatever else is shown.

Where there are enough studies an isotonic step may follow (binary and multilabel; multiclass stays
with temperature alone). It is fitted on the very studies that the parametric step was fitted
on, which costs little honesty: it reads the order of the studies, and with one column that order
is not fitted at all, with several it rests on one ratio of weights or two, learnt from no fewer
studies than the step asks for. The networks have seen none of them. Which calibration is taken goes
by how many studies there are, never by how well either fits them.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.contracts.task import Problem
from cxr_mm.models.isotonic import KNOTS, isotonic_shift
from cxr_mm.models.stacking import blend, stack

SUBSETS = 2 ** len(MODALITIES)


def subset_index(mask: Tensor) -> Tensor:
    """Number of each row's subset: mask (B, 3) bool → (B,) from 0 (none) to 7 (all)."""
    powers = 2 ** torch.arange(len(MODALITIES), device=mask.device)
    return (mask.long() * powers).sum(-1)


def subset_mask(subset: Iterable[Modality]) -> Tensor:
    """Mask (3,) of a subset."""
    chosen = set(subset)
    return torch.tensor([m in chosen for m in MODALITIES])


def link(logits: Tensor, problem: Problem) -> Tensor:
    """Calibrated logits (B, F) → probabilities: softmax over a multiclass row, else sigmoid."""
    precise = logits.double()  # in float32 a sigmoid is exactly 1 from 17 on
    return precise.softmax(1) if problem == "multiclass" else precise.sigmoid()


class Calibration(nn.Module):
    """Weights (8, J, F), biases (8, F) and the isotonic step's knots and shifts (8, F, KNOTS).

    One row for each subset; identity until fitted. An isotonic step that was not fitted adds
    exactly nothing.
    """

    weight: Tensor
    bias: Tensor
    knots: Tensor
    shift: Tensor

    def __init__(self, owners: Sequence[Modality | None], outputs: int) -> None:
        """Make the identity.

        Args:
            owners: the modality that each column of evidence is from; None where from all.
            outputs: number of findings.
        """
        super().__init__()
        self.owners = tuple(owners)
        self.register_buffer("weight", torch.ones(SUBSETS, len(self.owners), outputs))
        self.register_buffer("bias", torch.zeros(SUBSETS, outputs))
        self.register_buffer("knots", torch.arange(KNOTS).float().repeat(SUBSETS, outputs, 1))
        self.register_buffer("shift", torch.zeros(SUBSETS, outputs, KNOTS))
        self._blend = torch.ones(len(self.owners), outputs)

    def forward(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Columns (B, J, F), mask (B, 3) → logits (B, F)."""
        index = subset_index(mask)
        evidence = (self.weight[index] * columns).sum(1)
        logits = torch.where(mask.any(1, keepdim=True), evidence, 0.0) + self.bias[index]
        return logits + _interpolate(logits, self.knots[index], self.shift[index])

    def fit_prevalence(self, labels: Tensor, problem: Problem) -> None:
        """With nothing to go by, answer the prevalence: labels (N, F) of the training studies."""
        share = labels.nanmean(0).clamp(1e-3, 1 - 1e-3)
        self.bias[0] = share.log() if problem == "multiclass" else share.logit()

    def fit_parts(
        self,
        modality: Modality,
        columns: Tensor,
        labels: Tensor,
        problem: Problem,
        spread: float,
        fold: Tensor,
    ) -> None:
        """Learn how the parts of a modality make one column; goes before its subsets.

        Args:
            modality: one that columns are from.
            columns: (N, J, F) evidence of held-out studies shown this modality alone.
            labels, problem, spread, fold: as of `blend`.
        """
        own = torch.tensor([owner == modality for owner in self.owners])
        self._blend[own] = blend(columns[:, own], labels, problem, spread, fold)

    @torch.no_grad()
    def fit_subset(
        self, mask: Tensor, columns: Tensor, labels: Tensor, problem: Problem, spread: float
    ) -> None:
        """Fit one subset.

        Args:
            mask: (3,) the subset.
            columns: (N, J, F) evidence of held-out studies shown exactly this subset.
            labels: (N, F) 1, 0 or NaN.
            problem: of the task.
            spread: prior standard deviation of a log weight.
        """
        shown = {m for m, there in zip(MODALITIES, mask.tolist(), strict=True) if there}
        used = [o for o in dict.fromkeys(self.owners) if o is None or o in shown]
        belongs = torch.tensor([[float(owner == one) for owner in self.owners] for one in used])
        joined = torch.einsum("mj,jf,njf->nmf", belongs, self._blend, columns)
        with torch.enable_grad():
            weight, bias = stack(joined, labels, problem, spread)
        index = int(subset_index(mask))
        self.weight[index] = torch.einsum("mj,mf,jf->jf", belongs, weight, self._blend)
        self.bias[index] = bias
        self.shift[index] = 0.0

    @torch.no_grad()
    def fit_isotonic(
        self, mask: Tensor, columns: Tensor, labels: Tensor, studies: int, rarer: int
    ) -> None:
        """Put the isotonic step behind the parametric one, for each finding that has the studies.

        Args:
            mask, columns, labels: those given to `fit_subset`, which goes before.
            studies: labelled studies a finding must have.
            rarer: of these, studies of its rarer class; 1 at least.
        """
        index = int(subset_index(mask))
        logits = self(columns, mask.expand(len(columns), -1)).double().numpy()
        truth = labels.double().numpy()
        for finding in range(truth.shape[1]):
            known = ~np.isnan(truth[:, finding])
            positive = int((truth[known, finding] == 1).sum())
            total = int(known.sum())
            if total < studies or min(positive, total - positive) < rarer:
                continue
            found, shift = isotonic_shift(logits[known, finding], truth[known, finding])
            more = KNOTS - len(found)
            beyond = found[-1] + np.arange(1, more + 1)
            knots = np.concatenate([found, beyond])
            self.knots[index, finding] = torch.from_numpy(knots)
            self.shift[index, finding] = torch.from_numpy(np.pad(shift, (0, more), "edge"))


def _interpolate(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Values (B, F, K) at rising knots (B, F, K) → (B, F): linear between, constant beyond."""
    above = torch.searchsorted(knots, at.detach().unsqueeze(-1)).clamp(1, knots.shape[-1] - 1)
    pair = torch.cat([above - 1, above], dim=-1)
    (low, high), (first, second) = (t.gather(-1, pair).unbind(-1) for t in (knots, values))
    part = ((at - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return first + part * (second - first)
