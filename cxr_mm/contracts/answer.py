"""Answer: a prediction together with what the model saw, as explanation and log need it."""

import math
from dataclasses import dataclass, field
from datetime import datetime

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.prediction import Prediction
from cxr_mm.contracts.record import PredictionRecord
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


def record_of(
    answer: Answer, *, record_id: str, created_at: datetime, study: str, patient: str | None
) -> PredictionRecord:
    """What is kept of an answer.

    Args:
        answer: the answer.
        record_id: its identity.
        created_at: when it was given, with UTC offset.
        study, patient: what stands for the ids.
    """
    prediction = answer.prediction
    return PredictionRecord(
        record_id=record_id,
        created_at=created_at,
        task=prediction.task,
        model=prediction.model,
        digest=prediction.digest,
        study_hash=study,
        patient_hash=patient,
        modalities=prediction.modalities,
        view=answer.study.view,
        clinical=answer.clinical,
        quality={k: float(v) for k, v in answer.quality.items() if math.isfinite(v)},
        image_embedding=_floats(answer.image_embedding),
        note_embedding=_floats(answer.note_embedding),
        probabilities={f.finding: f.probability for f in prediction.findings},
        positives={f.finding: f.positive for f in prediction.findings},
        certainties={f.finding: f.certainty for f in prediction.findings if f.certainty},
        note_traits=answer.note_traits,
        shares=answer.shares,
        latency_ms=answer.latency_ms,
    )


def _floats(vector: NDArray[np.float32] | None) -> tuple[float, ...] | None:
    return None if vector is None else tuple(vector.tolist())
