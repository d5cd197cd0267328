"""The records of the prediction log: predictions, outcomes and requests without a prediction.

They have no pixels and no text of notes; ids are hashed.
"""

import math
import secrets
from datetime import datetime
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, Field

from cxr_mm.core.prediction import Answer, Certainty
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.types import Frozen, Modality

LONGEST_COMMENT = 500
LONGEST_SITE = 64


def random_id() -> str:
    """A unique id: 128 random bits, hexadecimal."""
    return secrets.token_hex(16)


class PredictionRecord(Frozen):
    """One logged prediction.

    Args:
        record_id: random, unique.
        created_at: UTC.
        task, model, digest: the model that predicted.
        study_hash, patient_hash: keyed hashes (HMAC-SHA256) of the ids.
        modalities: those that were used.
        view: view position, if known.
        clinical: checked feature values, None where not known.
        quality: image quality statistics; empty without an image.
        image_embedding, note_embedding: as the fusion saw them; None where absent.
        probabilities: finding → calibrated probability.
        positives: finding → at or above the operating point.
        certainties: finding → answer that the conformal set leaves.
        note_traits: see `cxr_mm.data.notes`; empty without a note.
        shares: finding → modality → its Shapley value in the probability.
        latency_ms: time from study to prediction.
        source: where the study came from: `page`, `rest`, `pacs`, or empty where it is not known.
        site: hospital or department, as the settings of its page or node name it, or empty.
    """

    record_id: str
    created_at: AwareDatetime
    task: str
    model: str
    digest: str
    study_hash: str
    patient_hash: str | None = None
    modalities: tuple[Modality, ...]
    view: str | None = None
    clinical: dict[str, ClinicalValue] = Field(default_factory=dict)
    quality: dict[str, float] = Field(default_factory=dict)
    image_embedding: tuple[float, ...] | None = None
    note_embedding: tuple[float, ...] | None = None
    probabilities: dict[str, float]
    positives: dict[str, bool]
    certainties: dict[str, Certainty] = Field(default_factory=dict)
    note_traits: dict[str, float] = Field(default_factory=dict)
    shares: dict[str, dict[Modality, float]] = Field(default_factory=dict)
    latency_ms: float | None = None
    source: str = ""
    site: str = Field("", max_length=LONGEST_SITE)


class Outcome(Frozen):
    """A label that arrives later for a logged study; concept drift is measured on outcomes."""

    outcome_id: str = Field(default_factory=random_id)
    """Random, unique: an outcome that is sent twice is stored once."""
    study_hash: str
    finding: str
    label: int = Field(ge=0, le=1)
    recorded_at: AwareDatetime
    source: str = "csv"
    """`csv`, `feedback` or the name of another channel."""
    comment: str = Field("", max_length=LONGEST_COMMENT)
    """The reader's comment, unchanged; it must not contain names."""


class ServiceEvent(Frozen):
    """A request without a prediction; with the records it gives request volume and error rates."""

    event_id: str = Field(default_factory=random_id)
    created_at: AwareDatetime
    task: str
    digest: str
    kind: Literal["rejected_image", "bad_input", "failure"]
    """`rejected_image`: the input gate found it out of distribution; `bad_input`: a value, file or
    note that cannot be read; `failure`: an error of the program."""
    field: str = ""
    """Name of the field at fault, from the task; never a value."""
    source: str = ""
    """Where the request came from: `page`, `pacs`, or empty where it is not known."""
    site: str = Field("", max_length=LONGEST_SITE)
    """As of a PredictionRecord."""


def record_of(
    answer: Answer,
    *,
    record_id: str,
    created_at: datetime,
    study: str,
    patient: str | None,
    source: str = "",
    site: str = "",
) -> PredictionRecord:
    """Build the log record of an answer.

    Args:
        answer: the answer.
        record_id: its unique id.
        created_at: time of the prediction, with UTC offset.
        study, patient: keyed hashes of the ids.
        source: where the study came from.
        site: whose log it is.
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
        source=source,
        site=site,
    )


def _floats(vector: NDArray[np.float32] | None) -> tuple[float, ...] | None:
    return None if vector is None else tuple(vector.tolist())
