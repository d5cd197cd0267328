"""Loss, class weights and AUC over labels that may be missing."""

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from sklearn.metrics import roc_auc_score
from torch import Tensor

from cxr_mm.core.task import Problem
from cxr_mm.models.optim import minimise

RIDGE = 1e-3
"""Penalty on the log scale, which keeps it finite where the classes are separable."""


def class_weights(labels: Tensor, problem: Problem) -> Tensor:
    """Weights (2, F) that balance the classes; row 0 for absent, row 1 for present.

    Each is the inverse of its class's share, 1 on average over the rows. Multiclass uses row 1
    alone. A class with no row, and everything missing, weighs 1.

    Args:
        labels: (N, F) 1, 0 or NaN.
        problem: multiclass shares are over the classes, else present against absent.
    """
    known = ~labels.isnan()
    present = torch.where(known, labels, 0.0).sum(0)
    total = known.sum(0).float()
    classes = labels.shape[1] if problem == "multiclass" else 2
    counts = torch.stack((total - present, present))
    weights = total / (classes * counts.clamp(min=1))
    return torch.where(counts > 0, weights, 1.0)


def known_labels(labels: Tensor, problem: Problem) -> Tensor:
    """Say which labels (B, F) the loss counts; of multiclass the rows (B,) that are known whole."""
    known = ~labels.isnan()
    return known.all(1) if problem == "multiclass" else known


def masked_loss(
    logits: Tensor, labels: Tensor, problem: Problem, weights: Tensor, smoothing: float = 0.0
) -> Tensor:
    """Mean cross-entropy over the known labels; missing ones give no gradient.

    Args:
        logits: (B, F).
        labels: (B, F) 1, 0 or NaN; a multiclass row with any NaN is left out.
        problem: multiclass takes a softmax over the findings, else a sigmoid for each.
        weights: (2, F) as of `class_weights`.
        smoothing: share of the label that is spread evenly.
    """
    logits = logits.float()
    chosen = known_labels(labels, problem)
    target = labels.nan_to_num(0.0)
    if problem == "multiclass":
        even = smoothing / labels.shape[1]
        soft = target * (1 - smoothing) + even
        each = -(soft * logits.log_softmax(1)).sum(1) * (target * weights[1]).sum(1)
    else:
        soft = target * (1 - smoothing) + smoothing / 2
        each = F.binary_cross_entropy_with_logits(logits, soft, reduction="none")
        each = each * torch.where(target > 0, weights[1], weights[0])
    return torch.where(chosen, each, 0.0).sum() / chosen.sum().clamp(min=1)


def calibrated_loss(logits: Tensor, labels: Tensor, problem: Problem, weights: Tensor) -> float:
    """Loss after the best scale and shifts of the logits (Platt 1999).

    Epochs are compared by it, since calibration follows later: a network that ranks better but is
    overconfident should not lose to one that is vague.

    Args:
        logits, labels, problem, weights: as of `masked_loss`.
    """
    logits, labels, weights = (t.detach().cpu().float() for t in (logits, labels, weights))
    log_scale = torch.zeros(1, requires_grad=True)
    shift = torch.zeros(logits.shape[1], requires_grad=True)

    def loss() -> Tensor:
        calibrated = logits * log_scale.exp() + shift
        ridge = RIDGE * log_scale.square().sum()
        return masked_loss(calibrated, labels, problem, weights) + ridge

    minimise([log_scale, shift], loss, steps=50)
    return float(loss().detach())


def mean_auc(logits: Tensor, labels: Tensor, problem: Problem) -> float:
    """Mean over findings of the area under the ROC curve; NaN where none has both classes."""
    scores = (logits.softmax(1) if problem == "multiclass" else logits).cpu().numpy()
    known = labels.cpu().numpy()
    aucs = []
    for score, label in zip(scores.T, known.T, strict=True):
        labelled = ~np.isnan(label)
        if len(np.unique(label[labelled])) == 2:
            aucs.append(float(roc_auc_score(label[labelled], score[labelled])))
    return float(np.mean(aucs)) if aucs else float("nan")
