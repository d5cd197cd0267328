"""Probe: how well a trait can be read off features, by logistic regression.

Linear probes as in Alain and Bengio, ICLR Workshop 2017.
"""

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedGroupKFold

from cxr_mm.evaluation.metrics import Floats

SPREAD = 1.0
"""Standard deviation of a logit before any data is seen, which sets the penalty: the same for
eight statistics of a film as for a thousand numbers of its embedding."""
STEPS = 300
FLAT = 1e-6


def out_of_fold(
    features: NDArray[np.floating],
    answers: NDArray[np.bool_],
    groups: NDArray[np.object_],
    folds: int,
    seed: int,
) -> Floats | None:
    """Score (N,) of each study by a model that has not seen its group.

    Args:
        features: (N, D), standardised within each fold's training rows.
        answers: (N,) what is to be read off.
        groups: (N,) what stays together.
        folds: number of folds.
        seed: for the shuffle.

    Returns:
        Logits, or None where either answer has fewer groups than there are folds.
    """
    kinds = [len(set(groups[answers == side])) for side in (True, False)]
    if min(kinds) < folds:
        return None
    scores = np.zeros(len(answers))
    splitter = StratifiedGroupKFold(folds, shuffle=True, random_state=seed)
    for train, test in splitter.split(features, answers, groups):
        scores[test] = _fitted(features[train], answers[train], features[test])
    return scores


def _fitted(
    features: NDArray[np.floating], answers: NDArray[np.bool_], unseen: NDArray[np.floating]
) -> Floats:
    centre, scale = features.mean(axis=0), features.std(axis=0)
    scale = np.where(scale > FLAT, scale, 1.0)
    x = (features - centre) / scale
    size = float((x**2).sum(axis=1).mean())
    penalty = SPREAD**2 / max(size, FLAT)
    model = LogisticRegression(C=penalty, max_iter=STEPS).fit(x, answers)
    scores: Floats = model.decision_function((unseen - centre) / scale).astype(np.float64)
    return scores
