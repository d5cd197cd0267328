"""Inference: any subset of the modalities is answered, and the answer says what it used."""

import numpy as np
import pytest

from cxr_mm.contracts.modality import MODALITIES, subset_name, subsets
from cxr_mm.contracts.study import Study
from cxr_mm.errors import InputError
from cxr_mm.inference import load_predictor

FILM = np.random.default_rng(0).random((80, 64), dtype=np.float32)
GIVEN = {"image": FILM, "clinical": {"age": 70.0, "spo2": 88.0}, "note": "c/o SOB, orthopnoea"}


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    return load_predictor(bundle_folder)


@pytest.mark.parametrize("subset", subsets(MODALITIES), ids=subset_name)
def test_every_subset_is_answered_at_its_own_operating_point(predictor, subset):
    names = {"image": "image", "tabular": "clinical", "note": "note"}
    study = Study("s", **{names[m]: GIVEN[names[m]] for m in subset})
    prediction = predictor.predict(study)
    assert prediction.modalities == subset
    assert [f.finding for f in prediction.findings] == ["consolidation", "effusion"]
    for found in prediction.findings:
        assert 0 < found.probability < 1
        point = predictor.bundle.operating_points[subset_name(subset)][found.finding]["youden"]
        assert found.threshold == point.threshold
        assert found.positive == (found.probability >= point.threshold)


def test_show_hides_what_a_study_has(predictor):
    whole = Study("s", **GIVEN)
    hidden = predictor.answer([whole], show=("note",))[0].prediction
    alone = predictor.predict(Study("s", note=GIVEN["note"]))
    assert hidden.modalities == ("note",)
    assert hidden.findings[0].probability == pytest.approx(alone.findings[0].probability, abs=1e-6)


def test_an_answer_carries_what_log_and_explanation_need(predictor):
    answer = predictor.answer([Study("s", **GIVEN)])[0]
    assert answer.clinical["age"] == 70.0
    assert answer.clinical["crp"] is None
    assert answer.image_embedding.shape == (predictor.bundle.image_encoder.dim,)
    assert answer.note_embedding.shape == (predictor.bundle.note_encoder.dim,)
    assert answer.quality
    assert answer.latency_ms > 0
    bare = predictor.answer([Study("s", note="fever")])[0]
    assert bare.image_embedding is None
    assert bare.quality == {}


def test_synthetic_and_research_use_are_said(predictor):
    prediction = predictor.predict(Study("s", note="fever"))
    assert prediction.synthetic
    assert "research only" in prediction.notice
    assert prediction.digest == predictor.bundle.digest


def test_a_view_not_trained_on_is_warned_of(predictor):
    warnings = predictor.predict(Study("s", image=FILM, view="LL", warnings=("blurred",))).warnings
    assert "blurred" in warnings
    assert any("LL" in text for text in warnings)


def test_nothing_to_go_by_is_an_error_that_says_what_is_wanted(predictor):
    with pytest.raises(InputError, match="image, tabular, note"):
        predictor.predict(Study("s", note=" ", clinical={"age": None}))
    assert predictor.answer([]) == []
