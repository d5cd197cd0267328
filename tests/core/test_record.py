"""What is kept of a prediction: nothing more than is declared, at a moment that is known."""

from datetime import UTC, datetime

import pytest
from pydantic import ValidationError

from cxr_mm.core.record import Outcome, PredictionRecord

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
RIGHT = {
    "record_id": "r",
    "created_at": NOW,
    "task": "demo",
    "model": "demo",
    "digest": "d",
    "study_hash": "s",
    "modalities": ("image",),
    "probabilities": {"flu": 0.2},
    "positives": {"flu": False},
}


def test_survives_json():
    record = PredictionRecord(**RIGHT, clinical={"age": 61.0, "sex": "F", "crp": None})
    assert PredictionRecord.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("field", ["study_id", "patient_id", "note", "pixels"])
def test_ids_notes_and_pixels_cannot_be_put_into_it(field):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        PredictionRecord(**RIGHT, **{field: "x"})


def test_a_moment_without_time_zone_is_refused():
    with pytest.raises(ValidationError, match="timezone"):
        PredictionRecord(**{**RIGHT, "created_at": NOW.replace(tzinfo=None)})


def test_an_unknown_modality_is_refused():
    with pytest.raises(ValidationError, match="modalities"):
        PredictionRecord(**{**RIGHT, "modalities": ("genome",)})


@pytest.mark.parametrize("label", [-1, 2, 0.5])
def test_an_outcome_is_0_or_1(label):
    with pytest.raises(ValidationError, match="label"):
        Outcome(study_hash="s", finding="flu", label=label, recorded_at=NOW)
