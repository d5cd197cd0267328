"""Prediction: what a bundle says of a study, and the operating point behind each yes or no."""

from typing import Literal

from cxr_mm.contracts.frozen import Frozen
from cxr_mm.contracts.modality import Modality

NOTICE = "Decision support for research only. Not a medical device; not for diagnosis or treatment."
Reason = Literal["youden", "high_sensitivity", "high_specificity"]


class OperatingPoint(Frozen):
    """A threshold on the calibrated probability, and the reason for it.

    `sensitivity` and `specificity` are those measured where the threshold was chosen.
    """

    threshold: float
    reason: Reason
    sensitivity: float
    specificity: float


class FindingPrediction(Frozen):
    """One finding of one study."""

    finding: str
    title: str
    probability: float
    """Calibrated, in [0, 1]."""
    threshold: float | None
    """Operating point; None for multiclass, where the likeliest class is the positive one."""
    positive: bool


class Prediction(Frozen):
    """All findings of one study by one model."""

    study_id: str
    task: str
    model: str
    """Name of the bundle."""
    digest: str
    """Digest over the bundle's parts (sha256, hexadecimal)."""
    modalities: tuple[Modality, ...]
    """Modalities that were used."""
    findings: tuple[FindingPrediction, ...]
    warnings: tuple[str, ...] = ()
    synthetic: bool = False
    notice: str = NOTICE
