"""Predictions: findings of one study with probability, operating point and certainty."""

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
"""The answer that the conformal set leaves; `uncertain` if it leaves both."""


class OperatingPoint(Frozen):
    """A threshold on the calibrated probability, and the criterion by which it was chosen.

    `sensitivity` and `specificity` are those on the studies that it was chosen on.
    """

    threshold: float
    reason: Reason
    sensitivity: float
    specificity: float

    @property
    def criterion(self) -> str:
        """The reason in words: Youden's J is largest at the prevalence, of balanced classes at a
        half."""
        if self.reason == "youden":
            return "a half, for balanced classes" if self.threshold == 0.5 else "prevalence"
        return self.reason.replace("_", " ")


class ConformalBounds(Frozen):
    """Bounds of the conformal set: the probabilities at which each answer remains possible."""

    coverage: float
    """Target share of studies, in each class, whose true answer the set contains."""
    present_from: float
    """Smallest calibrated probability at which presence is possible; 0 if it always is."""
    absent_to: float | None
    """Largest at which absence is possible; 1 if it always is, None for multiclass."""


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
    """`present` or `absent` if it agrees with `positive` and the other answer is ruled out; a
    class is `uncertain` if others are possible too. None if no bounds were learnt."""

    @property
    def in_words(self) -> str:
        """The answer with its threshold, so that a high probability below it is not misread:
        `negative: below the operating point of 81.0 %`, `uncertain, likeliest` of a class."""
        if self.threshold is None:
            answer = "likeliest" if self.positive else "less likely"
        elif self.positive:
            answer = f"positive: at or above the operating point of {percent(self.threshold)}"
        else:
            answer = f"negative: below the operating point of {percent(self.threshold)}"
        return f"uncertain, {answer}" if self.certainty == "uncertain" else answer


def percent(probability: float) -> str:
    """A probability as a person reads it: one decimal at most, never a false 0 or 100."""
    if 0 < probability < 0.001:
        return "< 0.1 %"
    if 0.999 < probability < 1:
        return "> 99.9 %"
    return f"{100 * probability:.1f} %"


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
    """Coverage of the conformal sets."""
    classes: tuple[str, ...] = ()
    """Multiclass: the classes in the conformal set, in the task's order; at least one."""
    warnings: tuple[str, ...] = ()
    synthetic: bool = False
    notice: str = NOTICE

    @property
    def probabilities(self) -> dict[str, float]:
        """Finding → calibrated probability, in [0, 1]."""
        return {found.finding: found.probability for found in self.findings}


@dataclass(frozen=True)
class Answer:
    """The prediction of one study, with everything that is logged or explained of it.

    Args:
        study: the input.
        prediction: the output of the model.
        clinical: checked values of every feature of the task, None where not known.
        quality: image quality statistics, empty without an image.
        image_embedding: (Di,) or None.
        note_embedding: (Dn,) or None; the part that may be stored, so without hashed words.
        note_traits: see `cxr_mm.data.notes`; empty without a note.
        shares: finding → modality → its Shapley value in the probability; with the
            probability that the model gives without any input, they sum to the prediction. Empty
            for a task of one modality.
        latency_ms: time from study to prediction; the mean per study in a batch.
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
