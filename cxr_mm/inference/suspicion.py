"""Suspicion: how far up in a list of studies an answer belongs."""

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.task import Task

Values = NDArray[np.float64]
ANY = ""
"""In place of a finding: all of them together."""
NEGATIVE = ("normal", "no_finding", "negative", "healthy")
"""Names by which a multiclass task says that a class of it means that nothing is found."""
SMALLEST = 1e-6
"""Threshold below which a probability over its threshold says no more."""


def suspicion(prediction: Prediction, task: Task, finding: str = ANY) -> float:
    """How far up in the list a study belongs.

    Of one finding it is its probability. Of any it is the highest probability over its threshold,
    or in a multiclass task the probability that something is found.
    """
    counting = counting_findings(prediction, task, finding)
    if finding == ANY and task.problem != "multiclass":
        return max(f.probability / max(f.threshold or 0.0, SMALLEST) for f in counting)
    return sum(f.probability for f in counting)


def suspicions(probabilities: Values, thresholds: Values, task: Task, finding: str = ANY) -> Values:
    """`suspicion` of N studies.

    Args:
        probabilities, thresholds: (N, F) by the findings of the task; thresholds may be NaN.
        task, finding: as of `suspicion`.

    Returns:
        (N,)
    """
    if finding != ANY:
        return probabilities[:, task.finding_names.index(finding)]
    if task.problem != "multiclass":
        return np.asarray((probabilities / np.fmax(thresholds, SMALLEST)).max(axis=1))
    counting = [name not in NEGATIVE for name in task.finding_names]
    return np.asarray(probabilities[:, counting].sum(axis=1))


def counting_findings(
    prediction: Prediction, task: Task, finding: str = ANY
) -> list[FindingPrediction]:
    """The findings that count: the one, or all that mean that something is found."""
    if finding != ANY:
        return [f for f in prediction.findings if f.finding == finding]
    found = task.problem != "multiclass"
    return [f for f in prediction.findings if found or f.finding not in NEGATIVE]
