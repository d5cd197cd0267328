"""Linear head on frozen embeddings: logistic regression, fitted to the optimum by L-BFGS."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from cxr_mm.contracts.task import Problem
from cxr_mm.training.loss import masked_loss

PENALTIES = tuple(float(p) for p in np.logspace(-4, 0, 9))
"""Strengths of the L2 penalty that are tried; validation chooses."""
STEPS = 100


@dataclass(frozen=True)
class FittedHead:
    """One fitted head.

    Args:
        weight, bias: (F, D) and (F,), for embeddings as they come.
        penalty: strength of the L2 penalty, on standardised embeddings.
        train_loss, val_loss: weighted, without the penalty.
    """

    weight: Tensor
    bias: Tensor
    penalty: float
    train_loss: float
    val_loss: float

    def logits(self, embeddings: Tensor) -> Tensor:
        """Embeddings (N, D) → logits (N, F)."""
        return embeddings @ self.weight.T + self.bias


def fit_heads(
    train: tuple[Tensor, Tensor], val: tuple[Tensor, Tensor], problem: Problem, weights: Tensor
) -> list[FittedHead]:
    """One head per penalty, strongest first, each starting from the one before.

    Args:
        train, val: embeddings (N, D) and labels (N, F) with NaN where missing.
        problem: as of the task.
        weights: (2, F) as of `class_weights`.
    """
    mean, std = train[0].mean(0), train[0].std(0, correction=0).clamp(min=1e-6)
    standard = (train[0] - mean) / std
    head = nn.Linear(standard.shape[1], train[1].shape[1])
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    fitted = []
    for penalty in sorted(PENALTIES, reverse=True):
        _minimise(head, standard, train[1], problem, weights, penalty)
        weight = head.weight.detach() / std
        bias = head.bias.detach() - weight @ mean
        losses = [masked_loss(x @ weight.T + bias, y, problem, weights) for x, y in (train, val)]
        fitted.append(FittedHead(weight, bias, penalty, *(float(loss) for loss in losses)))
    return fitted


def _minimise(
    head: nn.Linear,
    embeddings: Tensor,
    labels: Tensor,
    problem: Problem,
    weights: Tensor,
    penalty: float,
) -> None:
    optimiser = torch.optim.LBFGS(
        head.parameters(), max_iter=STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = masked_loss(head(embeddings), labels, problem, weights)
        loss = loss + penalty * head.weight.square().sum() / 2
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimiser.step(closure)  # type: ignore[no-untyped-call]
