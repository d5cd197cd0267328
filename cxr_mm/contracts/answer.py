"""Answer: a prediction together with what the model saw, as explanation and log need it."""

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.prediction import Prediction
from cxr_mm.contracts.study import ClinicalValue, Study


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
