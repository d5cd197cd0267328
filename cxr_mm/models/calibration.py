"""Calibration: columns of a fusion → logits whose sigmoid or softmax is a calibrated probability.

Each subset of modalities has its own: a positive weight per column and a bias per finding, by
stacking (Wolpert 1992) on studies the networks were not trained on. Columns that are parts of one
modality are first blended into one, in the same way in every subset.

With enough studies an isotonic step follows (binary and multilabel; multiclass has a temperature
alone). It is fitted on the same studies as the parametric step, with little optimism: it depends on
their order alone, which one column leaves unfitted and several columns determine by one or two
ratios of weights. The choice depends on the number of studies, never on the fit.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mm.core.task import Problem
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.models.optim import minimise

Floats = NDArray[np.float64]

KNOTS = 32
GROUP = 25
"""Fewest studies in a group."""
SPREAD = 0.5
"""Prior standard deviation of a block's shift, around 0."""
LIMIT = 15.0
"""Logits are clipped to ± this before they are averaged; beyond it a probability is 0 or 1."""


def isotonic_shift(logits: Floats, labels: Floats) -> tuple[Floats, Floats]:
    """Fit a shift of the logit so that probabilities equal the observed shares.

    A block's share is shrunk towards its parametric probability, as by a normal prior on the logit,
    so that a block without a positive (or negative) study stays finite and little is lost where the
    parametric calibration was right.

    Args:
        logits: (N,) parametrically calibrated, of held-out studies.
        labels: (N,) 1 or 0.

    Returns:
        Knots (K,) in logits, rising strictly, K at most KNOTS, and the shift (K,) at each, their
        sum rising strictly too; the shift is linear between knots and constant beyond them.
    """
    # Only training calibrates: a prediction need not wait for scipy.
    from scipy.optimize import isotonic_regression
    from scipy.special import expit, logit

    probabilities = expit(logits.clip(-LIMIT, LIMIT))
    groups = _equal_mass(logits)
    size = np.bincount(groups).astype(np.float64)
    positive = np.bincount(groups, weights=labels)
    expected = np.bincount(groups, weights=probabilities)

    blocks = isotonic_regression(positive / size, weights=size).blocks[:-1]
    size, positive, expected = (np.add.reduceat(a, blocks) for a in (size, positive, expected))
    mean = expected / size
    prior = 1 / (SPREAD**2 * mean * (1 - mean))
    weight = size + prior
    share = isotonic_regression((positive + prior * mean) / weight, weights=weight)

    starts = share.blocks[:-1]
    knots = logit(np.add.reduceat(expected, starts) / np.add.reduceat(size, starts))
    return knots, logit(share.x[starts]) - knots


def _equal_mass(logits: Floats) -> NDArray[np.intp]:
    """Group (N,) of each study, none empty; equal logits share a group."""
    count = int(np.clip(len(logits) // GROUP, 1, KNOTS))
    cuts = np.quantile(logits, np.linspace(0, 1, count + 1)[1:-1])
    number: NDArray[np.intp] = np.unique(
        np.searchsorted(cuts, logits, side="right"), return_inverse=True
    )[1]
    return number


BIAS_SPREAD = 2.0
"""Prior standard deviation of a bias."""


def log_likelihoods(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """Log likelihood of labels (N, F), 1, 0 or NaN, summed over studies: (F,) for each finding, or
    (1,) for a multiclass task."""
    if problem == "multiclass":
        rows = (~labels.isnan()).all(1)
        chosen = labels[rows].argmax(1)
        return -nn.functional.cross_entropy(logits[rows], chosen, reduction="sum").reshape(1)
    known = ~labels.isnan()
    losses = nn.functional.binary_cross_entropy_with_logits(
        logits, torch.where(known, labels, 0.0), reduction="none"
    )
    return -torch.where(known, losses, 0.0).sum(0)


def stack(
    columns: Tensor, labels: Tensor, problem: Problem, spread: float
) -> tuple[Tensor, Tensor]:
    """Fit the weights of stacked columns.

    Args:
        columns: (N, J, F) of held-out studies.
        labels: (N, F) 1, 0 or NaN.
        problem: of the task.
        spread: prior standard deviation of a log weight.

    Returns:
        Weights (J, F), above 0, and biases (F,).
    """
    findings = 1 if problem == "multiclass" else labels.shape[1]
    centre = torch.full((columns.shape[1], findings), columns.shape[1] ** -0.5).log()
    log_weight = centre.clone().requires_grad_()
    bias = torch.zeros(labels.shape[1], requires_grad=True)
    biased = float(problem != "multiclass")

    def loss() -> Tensor:
        logits = (log_weight.exp() * columns).sum(1) + bias * biased
        prior = (log_weight - centre).square().sum() / (2 * spread**2)
        prior = prior + bias.square().sum() / (2 * BIAS_SPREAD**2)
        return prior - log_likelihoods(logits, labels, problem).sum()

    minimise([log_weight, bias], loss)
    weight = log_weight.detach().exp().expand(-1, labels.shape[1])
    return weight, bias.detach() * biased


def blend(columns: Tensor, labels: Tensor, problem: Problem, spread: float, fold: Tensor) -> Tensor:
    """Fit the weights by which the parts of one modality are blended into one column.

    Two models, all parts or the last part alone (the one an encoder was designed to give), are
    averaged by how well each predicts left-out folds (pseudo-Bayesian model averaging: Geisser and
    Eddy 1979; Yao et al. 2018).

    Args:
        columns, labels, problem, spread: as of `stack`.
        fold: (N,) number of the fold; with a single fold all parts are taken.

    Returns:
        Weights (J, F).
    """
    everything, _ = stack(columns, labels, problem, spread)
    if columns.shape[1] == 1 or len(set(fold.tolist())) < 2:
        return everything
    last, _ = stack(columns[:, -1:], labels, problem, spread)
    alone = torch.zeros_like(everything)
    alone[-1] = last[0]
    credits = torch.stack(
        [_left_out(chosen, labels, problem, spread, fold) for chosen in (columns, columns[:, -1:])]
    ).softmax(0)
    return credits[0] * everything + credits[1] * alone


def _left_out(
    columns: Tensor, labels: Tensor, problem: Problem, spread: float, fold: Tensor
) -> Tensor:
    """Log likelihoods of the labels, each fold with weights fitted on the others."""
    folds = []
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        weight, bias = stack(columns[~inside], labels[~inside], problem, spread)
        logits = (weight * columns[inside]).sum(1) + bias
        folds.append(log_likelihoods(logits, labels[inside], problem))
    return torch.stack(folds).sum(0)


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
    exactly 0.
    """

    weight: Tensor
    bias: Tensor
    knots: Tensor
    shift: Tensor

    def __init__(self, owners: Sequence[Modality | None], outputs: int) -> None:
        """Initialise as the identity.

        Args:
            owners: modality of each column; None for a column of all modalities.
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
        stacked = (self.weight[index] * columns).sum(1)
        logits = torch.where(mask.any(1, keepdim=True), stacked, 0.0) + self.bias[index]
        return logits + _interpolate(logits, self.knots[index], self.shift[index])

    def fit_prevalence(self, labels: Tensor, problem: Problem) -> None:
        """Let a study without any modality get the prevalence of labels (N, F)."""
        self.bias[0] = _prevalence(labels, problem)

    def fit_parts(
        self,
        modality: Modality,
        columns: Tensor,
        labels: Tensor,
        problem: Problem,
        spread: float,
        fold: Tensor,
    ) -> None:
        """Fit the blend of a modality's parts, before any subset that contains it.

        Args:
            modality: owner of the columns.
            columns: (N, J, F) of held-out studies given this modality alone.
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
            columns: (N, J, F) of held-out studies given exactly this subset.
            labels: (N, F) 1, 0 or NaN.
            problem: of the task.
            spread: prior standard deviation of a log weight.
        """
        subset = {m for m, present in zip(MODALITIES, mask.tolist(), strict=True) if present}
        used = [o for o in dict.fromkeys(self.owners) if o is None or o in subset]
        belongs = torch.tensor([[float(owner == one) for owner in self.owners] for one in used])
        joined = torch.einsum("mj,jf,njf->nmf", belongs, self._blend, columns)
        weight, bias = stack(joined, labels, problem, spread)
        index = int(subset_index(mask))
        self.weight[index] = torch.einsum("mj,mf,jf->jf", belongs, weight, self._blend)
        self.bias[index] = bias
        self.shift[index] = 0.0

    @torch.no_grad()
    def fit_isotonic(
        self, mask: Tensor, columns: Tensor, labels: Tensor, studies: int, rarer: int
    ) -> None:
        """Fit the isotonic step of each finding with enough studies, after `fit_subset`.

        Args:
            mask, columns, labels: the same as for `fit_subset`.
            studies: fewest labelled studies of a finding.
            rarer: fewest of these in the rarer class; at least 1.
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
            knots, shift = isotonic_shift(logits[known, finding], truth[known, finding])
            more = KNOTS - len(knots)
            beyond = knots[-1] + np.arange(1, more + 1)
            self.knots[index, finding] = torch.from_numpy(np.concatenate([knots, beyond]))
            self.shift[index, finding] = torch.from_numpy(np.pad(shift, (0, more), "edge"))

    @torch.no_grad()
    def balance(self, mask: Tensor, labels: Tensor, problem: Problem) -> None:
        """Take the prevalence of labels (N, F) out of one subset, after all of it was fitted.

        The logits are shifted by its log odds, which is exact where classes look as they did and
        only their prevalence is another (Saerens et al. 2002).
        """
        index, logits = int(subset_index(mask)), _prevalence(labels, problem)
        self.bias[index] -= logits
        self.knots[index] -= logits.unsqueeze(1)


def _prevalence(labels: Tensor, problem: Problem) -> Tensor:
    """Logits (F,) of the prevalence of labels (N, F), 1, 0 or NaN."""
    share = labels.nanmean(0).clamp(1e-3, 1 - 1e-3)
    return share.log() if problem == "multiclass" else share.logit()


def _interpolate(at: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Values (B, F, K) at rising knots (B, F, K) → (B, F): linear between, constant beyond."""
    # Counted, as there are few: ONNX has no searchsorted.
    above = (knots < at.detach().unsqueeze(-1)).sum(-1, keepdim=True).clamp(1, knots.shape[-1] - 1)
    pair = torch.cat([above - 1, above], dim=-1)
    (low, high), (first, second) = (t.gather(-1, pair).unbind(-1) for t in (knots, values))
    part = ((at - low) / (high - low).clamp(min=1e-6)).clamp(0, 1)
    return first + part * (second - first)
