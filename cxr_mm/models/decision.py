"""Operating points: thresholds on the calibrated probability, each with the reason for it.

Youden's J (Youden 1950) and the usual clinical two: the largest threshold that still reaches a
wanted sensitivity, the smallest that still reaches a wanted specificity. Where probabilities are
calibrated, the expected J is largest at their prevalence: above it a study is likelier among those
with the finding than among those without. That is the threshold taken; the one that happens to be
best on the studies at hand varies far more from sample to sample (Leeflang et al., Clinical
Chemistry 2008; 54:729).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.errors import StageError
from cxr_mm.core.prediction import Certainty, ConformalBounds, OperatingPoint, Reason
from cxr_mm.core.task import Problem

OperatingPoints = dict[str, dict[str, dict[Reason, OperatingPoint]]]
"""Subset → finding → reason → operating point."""


def choose_operating_points(
    labels: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    target_sensitivity: float,
    target_specificity: float,
    is_balanced: bool = False,
) -> dict[Reason, OperatingPoint]:
    """Choose all operating points of one finding on one subset.

    Args:
        labels: (N,) 1, 0 or NaN.
        probabilities: (N,) calibrated, of studies the model was not trained on.
        is_balanced: whether they are those of classes as frequent as each other, so that a study
            speaks for the finding from 0.5 on, not from the prevalence of the labels.

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
    scores = probabilities[known]
    cuts = _cuts(scores)
    sensitivity, specificity = _rates(scores, positive, cuts)
    enough_sensitive = np.where(sensitivity >= target_sensitivity, specificity, -1.0)
    enough_specific = np.where(specificity >= target_specificity, sensitivity, -1.0)
    thresholds: dict[Reason, float] = {
        "youden": 0.5 if is_balanced else float(positive.mean()),
        "high_sensitivity": float(cuts[np.argmax(enough_sensitive)]),
        "high_specificity": float(cuts[np.argmax(enough_specific)]),
    }
    reached = _rates(scores, positive, np.array(list(thresholds.values())))
    return {
        reason: OperatingPoint(
            threshold=threshold, reason=reason, sensitivity=float(yes), specificity=float(no)
        )
        for (reason, threshold), yes, no in zip(thresholds.items(), *reached, strict=True)
    }


def _cuts(probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Cuts halfway between neighbouring values, so that none sits on a study's own probability."""
    values: Sequence[float] = np.unique(np.concatenate([[0.0], probabilities, [1.0]])).tolist()
    return np.array([(low + high) / 2 for low, high in pairwise(values)])


def _rates(
    probabilities: NDArray[np.float64], positive: NDArray[np.bool_], cuts: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Sensitivity and specificity of each cut."""
    yes = np.sort(probabilities[positive])
    no = np.sort(probabilities[~positive])
    return 1 - np.searchsorted(yes, cuts) / len(yes), np.searchsorted(no, cuts) / len(no)


Conformal = dict[str, dict[str, ConformalBounds]]
"""Subset → finding → bounds."""


def fit_bounds(
    labels: NDArray[np.float32],
    probabilities: NDArray[np.float64],
    coverage: float,
    problem: Problem,
) -> ConformalBounds:
    """Learn the bounds of one finding on one subset.

    A class with too few studies for the level (fewer than coverage / (1 - coverage), so 9 at 0.9)
    can never be ruled out.

    Args:
        labels: (N,) 1, 0 or NaN.
        probabilities: (N,) calibrated, of studies the networks were not trained on.
        coverage: wanted of each class, in (0, 1).
        problem: of the task.
    """
    lowest = _rank(probabilities[labels == 1], coverage)
    highest = _rank(-probabilities[labels == 0], coverage)
    several = problem == "multiclass"
    return ConformalBounds(
        coverage=coverage,
        present_from=0.0 if lowest is None else lowest,
        absent_to=None if several else 1.0 if highest is None else -highest,
    )


def _rank(values: NDArray[np.float64], coverage: float) -> float | None:
    """The value that a new one falls below with a chance of at most 1 - coverage, if there is."""
    rank = int(np.floor((len(values) + 1) * (1 - coverage) + 1e-9))
    return float(np.partition(values, rank - 1)[rank - 1]) if rank else None


@dataclass(frozen=True)
class Decisions:
    """Answers to the findings of N studies.

    Args:
        thresholds: (N, F) of the operating points; NaN where the likeliest class is the answer.
        positives: (N, F) the answers.
        certainties: (N, F) words, see `Certainty`.
    """

    thresholds: NDArray[np.float64]
    positives: NDArray[np.bool_]
    certainties: NDArray[np.str_]


def decide(
    problem: Problem,
    probabilities: NDArray[np.float64],
    points: Sequence[Sequence[OperatingPoint | None]],
    bounds: Sequence[Sequence[ConformalBounds]],
) -> Decisions:
    """Decide on the findings of N studies: the rule of prediction, evaluation and recalibration.

    A finding is positive from its operating point on; without one, if it is the likeliest.

    Args:
        problem: of the task.
        probabilities: (N, F) calibrated.
        points: N rows of F operating points; None for classes.
        bounds: N rows of F.
    """
    cuts = [np.nan if point is None else point.threshold for row in points for point in row]
    thresholds = np.array(cuts, dtype=np.float64).reshape(probabilities.shape)
    likeliest = probabilities.argmax(axis=1)[:, None] == np.arange(probabilities.shape[1])
    positives = np.where(np.isnan(thresholds), likeliest, probabilities >= thresholds)
    words = certainties(problem, probabilities, positives, bounds)
    return Decisions(thresholds, positives, np.array(words, dtype=str).reshape(positives.shape))


def certainties(
    problem: Problem,
    probabilities: NDArray[np.float64],
    positives: NDArray[np.bool_],
    bounds: Sequence[Sequence[ConformalBounds]],
) -> list[list[Certainty]]:
    """What is left of each finding of each study.

    Args:
        problem: of the task.
        probabilities: (N, F) calibrated.
        positives: (N, F) the answers given: at the operating point, or the likeliest class.
        bounds: N rows of F.
    """
    lowest = np.array([[b.present_from for b in row] for row in bounds]).reshape(positives.shape)
    present = positives | (probabilities >= lowest)
    if problem == "multiclass":
        absent = present.sum(axis=1, keepdims=True) > present
    else:
        highest = np.array([[b.absent_to for b in row] for row in bounds], dtype=np.float64)
        absent = ~positives | (probabilities <= highest.reshape(positives.shape))
    words: list[list[Certainty]] = np.where(
        present & absent, "uncertain", np.where(present, "present", "absent")
    ).tolist()
    return words
