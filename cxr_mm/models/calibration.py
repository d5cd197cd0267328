"""Calibration: columns of evidence → logits whose probabilities mean what they say.

One for each subset of modalities: a positive weight per column and a bias per finding, fitted by
penalised maximum likelihood on studies the networks were not trained on. With one column this is
Platt (1999) scaling, for multiclass temperature scaling with class biases (Guo et al. 2017); with a
column per modality it is stacked generalisation (Wolpert 1992) with positive weights.
"""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.contracts.task import Problem

SUBSETS = 2 ** len(MODALITIES)
BIAS_SPREAD = 2.0
SHARED_START = 0.7  # modalities overlap: before any data, each counts less beside others than alone


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
    """Weights (8, J, F) and biases (8, F), one row for each subset; identity until fitted."""

    weight: Tensor
    bias: Tensor

    def __init__(self, columns: int, outputs: int) -> None:
        super().__init__()
        self.register_buffer("weight", torch.ones(SUBSETS, columns, outputs))
        self.register_buffer("bias", torch.zeros(SUBSETS, outputs))

    def forward(self, columns: Tensor, mask: Tensor) -> Tensor:
        """Columns (B, J, F), mask (B, 3) → logits (B, F)."""
        index = subset_index(mask)
        evidence = (self.weight[index] * columns).sum(1)
        return torch.where(mask.any(1, keepdim=True), evidence, 0.0) + self.bias[index]

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
        several = columns.shape[1] == len(MODALITIES)
        used = mask if several else torch.ones(1, dtype=torch.bool)
        findings = 1 if problem == "multiclass" else labels.shape[1]
        start = SHARED_START if several and int(mask.sum()) > 1 else 1.0
        centre = torch.full((int(used.sum()), findings), start).log()
        log_weight = centre.clone().requires_grad_()
        bias = torch.zeros(labels.shape[1], requires_grad=True)
        optimiser = torch.optim.LBFGS(
            [log_weight, bias], max_iter=100, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            optimiser.zero_grad()
            logits = (log_weight.exp() * columns[:, used]).sum(1) + bias
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
