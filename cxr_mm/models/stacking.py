"""Stacking: columns of evidence → one positive weight each, learnt on studies that no network has
seen (Wolpert 1992, stacked generalisation; Breiman 1996, with weights kept positive).

All by penalised maximum likelihood. Columns overlap, so that before any data each counts less
beside others than alone; with one column this is Platt (1999) scaling, for multiclass temperature
scaling (Guo et al. 2017), which has no biases, so that it leaves the likeliest class what it was.
"""

import torch
from torch import Tensor, nn

from cxr_mm.contracts.task import Problem

BIAS_SPREAD = 2.0
"""Prior standard deviation of a bias."""


def log_likelihoods(logits: Tensor, labels: Tensor, problem: Problem) -> Tensor:
    """Log likelihood of labels (N, F), 1, 0 or NaN, summed over studies: one for each finding (F,),
    or one of all, (1,), where a study has exactly one of them."""
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
    """Weigh columns.

    Args:
        columns: (N, J, F) evidence of held-out studies.
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
    optimiser = torch.optim.LBFGS([log_weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        logits = (log_weight.exp() * columns).sum(1) + bias * biased
        prior = (log_weight - centre).square().sum() / (2 * spread**2)
        prior = prior + bias.square().sum() / (2 * BIAS_SPREAD**2)
        loss = prior - log_likelihoods(logits, labels, problem).sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
    weight = log_weight.detach().exp().expand(-1, labels.shape[1])
    return weight, bias.detach() * biased


def blend(columns: Tensor, labels: Tensor, problem: Problem, spread: float, fold: Tensor) -> Tensor:
    """Weigh the parts of one modality, which make one column of evidence together.

    There are two ways, all parts or the last alone, which is the one that an encoder was made to
    give. Each counts by how well it foretells the studies of folds that it was not weighed on
    (pseudo-Bayesian model averaging: Geisser and Eddy 1979; Yao et al. 2018).

    Args:
        columns, labels, problem, spread: as of `stack`.
        fold: (N,) what goes together; with one fold all parts are taken.

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
        [_foretold(chosen, labels, problem, spread, fold) for chosen in (columns, columns[:, -1:])]
    ).softmax(0)
    return credits[0] * everything + credits[1] * alone


def _foretold(
    columns: Tensor, labels: Tensor, problem: Problem, spread: float, fold: Tensor
) -> Tensor:
    """Log likelihoods of the labels, each fold by weights of the others."""
    found = []
    for number in sorted(set(fold.tolist())):
        inside = fold == number
        weight, bias = stack(columns[~inside], labels[~inside], problem, spread)
        logits = (weight * columns[inside]).sum(1) + bias
        found.append(log_likelihoods(logits, labels[inside], problem))
    return torch.stack(found).sum(0)
