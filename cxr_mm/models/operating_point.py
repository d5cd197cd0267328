"""Operating points: thresholds on the calibrated probability, each with the reason for it.

Youden's J (Youden 1950) and the usual clinical two: the largest threshold that still reaches a
wanted sensitivity, the smallest that still reaches a wanted specificity.
"""

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.prediction import OperatingPoint, Reason
from cxr_mm.errors import StageError

OperatingPoints = dict[str, dict[str, dict[Reason, OperatingPoint]]]
"""Subset → finding → reason → operating point."""


def choose_operating_points(
    labels: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    target_sensitivity: float,
    target_specificity: float,
) -> dict[Reason, OperatingPoint]:
    """Choose all operating points of one finding on one subset.

    Args:
        labels: (N,) 1, 0 or NaN.
        probabilities: (N,) of studies the model was not trained on.

    Raises:
        StageError: there is no positive or no negative study.
    """
    known = ~np.isnan(labels)
    positive = labels[known] == 1
    if positive.all() or not positive.any():
        raise StageError(
            "no operating point can be chosen where all studies have the same label",
            field="fuse",
            remedy="Give validation more studies, or leave out a modality that few studies have",
        )
    cuts, sensitivity, specificity = _curve(probabilities[known], positive)

    def point(reason: Reason, candidates: NDArray[np.float64]) -> OperatingPoint:
        best = int(np.argmax(candidates))
        return OperatingPoint(
            threshold=float(cuts[best]),
            reason=reason,
            sensitivity=float(sensitivity[best]),
            specificity=float(specificity[best]),
        )

    enough_sensitive = np.where(sensitivity >= target_sensitivity, specificity, -1.0)
    enough_specific = np.where(specificity >= target_specificity, sensitivity, -1.0)
    return {
        "youden": point("youden", sensitivity + specificity),
        "high_sensitivity": point("high_sensitivity", enough_sensitive),
        "high_specificity": point("high_specificity", enough_specific),
    }


def _curve(
    probabilities: NDArray[np.float64], positive: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Cuts halfway between neighbouring values, so that none sits on a study's own probability."""
    values: Sequence[float] = np.unique(np.concatenate([[0.0], probabilities, [1.0]])).tolist()
    cuts = np.array([(low + high) / 2 for low, high in pairwise(values)])
    yes = np.sort(probabilities[positive])
    no = np.sort(probabilities[~positive])
    sensitivity = 1 - np.searchsorted(yes, cuts) / len(yes)
    specificity = np.searchsorted(no, cuts) / len(no)
    return cuts, sensitivity, specificity
