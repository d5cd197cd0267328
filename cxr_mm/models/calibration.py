"""Calibration: columns of evidence → logits whose probabilities mean what they say.

One for each subset of modalities: a positive weight per column and a bias per finding, fitted by
penalised maximum likelihood on studies the networks were not trained on. With one column this is
Platt (1999) scaling, for multiclass temperature scaling (Guo et al. 2017), which has no biases, so
that it leaves the likeliest class what it was; with a column per part of a modality it is stacked
generalisation (Wolpert 1992) with positive weights.

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

SUBSETS = 2 ** len(MODALITIES)
BIAS_SPREAD = 2.0


def subset_index(mask: Tensor) -> Tensor:
    """Number of each row's subset: mask (B, 3) bool → (B,) from 0 (none) to 7 (all)."""
    powers = 2 ** torch.arange(len(MODALITIES), device=mask.device)
    return (mask.long() * powers).sum(-1)


def subset_mask(subset: Iterable[Modality]) -> Tensor:
    """Mask (3,) of a subset."""
    chosen = set(subset)
    return torch.tensor([m in chosen for m in MODALITIES])


def log_likelihood(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """Log likelihood of labels (N, F), 1, 0 or NaN, summed over studies and findings."""
    known = ~labels.isnan()
    if problem == "multiclass":
        rows = known.all(1)
        chosen = labels[rows].argmax(1)
        return -nn.functional.cross_entropy(logits[rows], chosen, reduction="sum")
    return -nn.functional.binary_cross_entropy_with_logits(
        logits[known], labels[known], reduction="sum"
    )


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
        used = torch.tensor([owner is None or owner in shown for owner in self.owners])
        findings = 1 if problem == "multiclass" else labels.shape[1]
        # Columns overlap: before any data, each counts less beside others than alone.
        start = float(used.sum()) ** -0.5
        centre = torch.full((int(used.sum()), findings), start).log()
        log_weight = centre.clone().requires_grad_()
        bias = torch.zeros(labels.shape[1], requires_grad=True)
        biased = float(problem != "multiclass")
        optimiser = torch.optim.LBFGS(
            [log_weight, bias], max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            logits = (log_weight.exp() * columns[:, used]).sum(1) + bias * biased
            prior = (log_weight - centre).square().sum() / (2 * spread**2)
            prior = prior + bias.square().sum() / (2 * BIAS_SPREAD**2)
            loss = prior - log_likelihood(logits, labels, problem)
            loss.backward()  # type: ignore[no-untyped-call]
            return loss

        optimiser.step(closure)  # type: ignore[no-untyped-call]
        index = int(subset_index(mask))
        with torch.no_grad():
            self.weight[index] = 0.0
            self.weight[index][used] = log_weight.exp().expand(-1, labels.shape[1])
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
