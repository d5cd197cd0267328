"""Conformal: which answers can be ruled out, so that a prediction may say "uncertain".

Split-conformal prediction sets (Vovk, Gammerman and Shafer 2005; Angelopoulos and Bates 2021), one
level for each class (Mondrian: Vovk 2012) of each finding and subset of modalities. The score is
the calibrated probability of the class (LAC: Sadinle, Lei and Wasserman 2019), for multiclass too.

To the set is added the answer that is given anyway, at the operating point or as the likeliest
class. So no set is empty, nothing certain contradicts the operating point, and coverage only grows:
a finding told apart better than the level asks for is never uncertain.

What is promised: of studies that come like those the bounds were learnt on, a share of at least the
level keeps its true answer, in each class, finding by finding (not in all findings at once). The
promise is exact only for scores that have not seen those studies. Here stacking weights, or
temperature and class biases, were fitted on them, a handful of numbers; any other calibration keeps
the order of the studies, and with it the sets of a binary finding. With `cross_fit` the scores come
from several networks that each left a fold out, and answers from one fitted again on everything:
cross-conformal (Vovk 2015), for which little can be proved (1 - 2α for the CV+ that keeps every
network: Barber et al. 2021) though it mostly holds. Several studies of one patient count each. So
the coverage to believe is the one that `evaluate` measures.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.prediction import Certainty, ConformalBounds
from cxr_mm.contracts.task import Problem

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
