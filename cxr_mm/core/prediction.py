"""Prediction: what a bundle says of a study, and the operating point behind each yes or no."""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.study import ClinicalValue, Study
from cxr_mm.core.types import Frozen, Modality

NOTICE = "Decision support for research only. Not a medical device; not for diagnosis or treatment."
SYNTHETIC = "SYNTHETIC: trained on made-up data; its numbers mean nothing for a real patient."
Reason = Literal["youden", "high_sensitivity", "high_specificity"]
Certainty = Literal["present", "absent", "uncertain"]
"""What is left of a finding once answers that can be ruled out are: both is `uncertain`."""


class OperatingPoint(Frozen):
    """A threshold on the calibrated probability, and the reason for it.

    `sensitivity` and `specificity` are those measured where the threshold was chosen.
    """

    threshold: float
    reason: Reason
    sensitivity: float
    specificity: float


class ConformalBounds(Frozen):
    """The probabilities between which an answer of a finding cannot be ruled out."""

    coverage: float
    """Share of studies, of each class, whose true answer these bounds are to leave in."""
    present_from: float
    """The finding is possible from this calibrated probability on; 0 where it always is."""
    absent_to: float | None
    """Its absence is possible up to this one; 1 where it always is, None for multiclass."""


class FindingPrediction(Frozen):
    """One finding of one study."""

    finding: str
    title: str
    probability: float
    """Calibrated, in [0, 1]."""
    threshold: float | None
    """Operating point; None for multiclass, where the likeliest class is the positive one."""
    positive: bool
    certainty: Certainty | None = None
    """`present` or `absent` only as `positive` has it, and where the other can be ruled out; a
    class is `uncertain` where others are possible too. None where no bounds were learnt."""


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
    coverage: float | None = None
    """Level at which answers were ruled out."""
    classes: tuple[str, ...] = ()
    """Multiclass: those that cannot be ruled out, in the task's order; never none."""
    warnings: tuple[str, ...] = ()
    synthetic: bool = False
    notice: str = NOTICE


@dataclass(frozen=True)
class Answer:
    """One study answered.

    Args:
        study: what came in.
        prediction: what the model says.
        clinical: checked values of every feature of the task, None where not known.
        quality: image quality statistics, empty without an image.
        image_embedding: (Di,) or None.
        note_embedding: (Dn,) or None; what may be written down of it, so without hashed words.
        note_traits: what the note is like, empty without one.
        shares: finding → modality → its Shapley value in the probability; they and the
            probability that the model gives to nothing add up to its answer. Empty for a task of
            one modality.
        latency_ms: from study to prediction; per study where several were answered at once.
    """

    study: Study
    prediction: Prediction
    clinical: dict[str, ClinicalValue]
    quality: dict[str, float] = field(default_factory=dict)
    image_embedding: NDArray[np.float32] | None = None
    note_embedding: NDArray[np.float32] | None = None
    note_traits: dict[str, float] = field(default_factory=dict)
    shares: dict[str, dict[Modality, float]] = field(default_factory=dict)
    latency_ms: float | None = None
