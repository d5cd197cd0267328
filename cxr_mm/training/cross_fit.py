"""Folds of the training rows by group, for out-of-fold embeddings (stacking: Wolpert 1992)."""

import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import StratifiedGroupKFold

from cxr_mm.errors import StageError


def group_folds(
    labels: NDArray[np.float32], groups: NDArray[np.object_], count: int, seed: int, field: str
) -> NDArray[np.int64]:
    """Fold (N,) of each row, groups kept whole and label patterns spread evenly.

    Args:
        labels: (N, F) 1, 0 or NaN.
        groups: (N,) what must stay together.
        count: number of folds.
        seed: for the shuffle.
        field: the parameter that asked for so many, for the error.

    Raises:
        StageError: there are fewer groups than folds.
    """
    if len(set(groups)) < count:
        raise StageError(
            f"{len(set(groups))} groups among the training rows cannot fill {count} folds",
            field=field,
            remedy="Take fewer folds",
        )
    folds = np.zeros(len(labels), dtype=np.int64)
    splitter = StratifiedGroupKFold(count, shuffle=True, random_state=seed)
    strata = _strata(labels, count)
    for fold, (_, inside) in enumerate(splitter.split(labels, strata, groups)):
        folds[inside] = fold
    return folds


def _strata(labels: NDArray[np.float32], least: int) -> NDArray[np.int64]:
    """Label patterns as numbers; those too rare to be in every fold join the commonest."""
    _, pattern, counts = np.unique(
        np.nan_to_num(labels, nan=2.0), axis=0, return_inverse=True, return_counts=True
    )
    rare = counts[pattern] < least
    return np.where(rare, counts.argmax(), pattern).astype(np.int64)
