"""Inference: any subset of the modalities is answered, and the answer says what it used."""

from dataclasses import replace

import numpy as np
import pytest

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.prediction import ConformalBounds
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES, subset_name, subsets
from cxr_mm.imaging.quality import image_quality
from cxr_mm.inference.predictor import Predictor, load_predictor
from cxr_mm.models.input_gate import NO_GATE

IMAGE = np.random.default_rng(0).random((80, 64), dtype=np.float32)
GIVEN = {"image": IMAGE, "clinical": {"age": 70.0, "spo2": 88.0}, "note": "c/o SOB, orthopnoea"}


@pytest.fixture(scope="module")
def predictor(bundle_folder):
    """Takes noise for an image."""
    return load_predictor(bundle_folder, accept_any_image=True)


@pytest.fixture
def strict(predictor):
    return Predictor(predictor.bundle)


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
        assert found.certainty in ("present" if found.positive else "absent", "uncertain")
    assert prediction.coverage == predictor.bundle.bounds(subset)[0].coverage == 0.9
    assert prediction.classes == ()


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
    meaning = predictor.bundle.note_encoder.parts[0].length  # words could be looked up
    assert answer.note_embedding.shape == (meaning,)
    assert answer.quality == image_quality(IMAGE)
    assert answer.latency_ms > 0
    raw = predictor.answer([Study("s", note="fever")])[0]
    assert raw.image_embedding is None
    assert raw.quality == {}
    read = predictor.answer([Study("s", image=IMAGE, quality={"noise": 0.5})])[0]
    assert read.quality == {"noise": 0.5}


@pytest.mark.parametrize("subset", subsets(MODALITIES), ids=subset_name)
def test_shares_of_what_is_there_and_the_answer_to_nothing_add_up_to_the_probability(
    predictor, subset
):
    names = {"image": "image", "tabular": "clinical", "note": "note"}
    study = Study("s", **{names[m]: GIVEN[names[m]] for m in subset})
    beside = Study("t", note="fever")
    answer = predictor.answer([study, beside])[0]
    for found in answer.prediction.findings:
        shares = answer.shares[found.finding]
        assert tuple(shares) == subset
        assert predictor.bundle.prior[found.finding] + sum(shares.values()) == pytest.approx(
            found.probability, abs=1e-6
        )


def test_traits_are_of_the_note_as_the_model_reads_it(predictor):
    answer = predictor.answer([Study("s", note="no fever")])[0]
    assert answer.note_traits["negation"] == 0.5
    assert predictor.answer([Study("s", image=IMAGE)])[0].note_traits == {}
    hidden = predictor.answer([Study("s", image=IMAGE, note="no fever")], show=("image",))[0]
    assert hidden.note_traits == {}


def test_synthetic_and_research_use_are_said(predictor):
    prediction = predictor.predict(Study("s", note="fever"))
    assert prediction.synthetic
    assert "research only" in prediction.notice
    assert prediction.digest == predictor.bundle.digest


def test_a_view_not_trained_on_is_warned_of(predictor):
    warnings = predictor.predict(Study("s", image=IMAGE, view="LL", warnings=("blurred",))).warnings
    assert "blurred" in warnings
    assert any("LL" in text for text in warnings)


def test_a_picture_that_is_no_image_is_refused_with_a_way_to_go_on(strict):
    with pytest.raises(RadiographError, match=r"^image: this does not look like") as refusal:
        strict.predict(Study("s", **GIVEN))
    assert "predict from tabular and note alone" in refusal.value.remedy
    assert strict.answer([Study("s", **GIVEN)], show=("tabular", "note"))
    assert strict.predict(Study("s", note=GIVEN["note"])).modalities == ("note",)


def test_a_rejected_image_costs_no_other_study_its_answer(strict):
    good, bad = Study("good", note="fever"), Study("bad", **GIVEN)
    first, refusal, last = strict.attempt([good, bad, good])
    assert isinstance(refusal, RadiographError)
    assert first.prediction.study_id == last.prediction.study_id == "good"


def test_any_image_is_accepted_where_that_is_asked_for_with_a_warning(predictor):
    warnings = predictor.predict(Study("s", **GIVEN)).warnings
    assert any("may be no upright frontal chest radiograph" in text for text in warnings)


def test_a_bundle_without_a_gate_refuses_nothing_and_says_so_of_a_single_image(predictor):
    ungated = Predictor(replace(predictor.bundle, gate=None))
    result = ungated.predict(Study("s", **GIVEN))
    assert result.modalities == MODALITIES
    assert result.warnings == (NO_GATE,)
    assert ungated.predict(Study("s", note=GIVEN["note"])).warnings == ()
    assert ungated.answer([Study("s", **GIVEN)])[0].prediction.warnings == ()


def test_nothing_to_go_by_is_an_error_that_says_what_is_wanted(predictor):
    with pytest.raises(InputError, match="image, tabular, note"):
        predictor.predict(Study("s", note=" ", clinical={"age": None}))
    assert predictor.answer([]) == []


def test_between_its_bounds_a_finding_is_uncertain_and_of_classes_all_that_are_possible(predictor):
    study, bundle = Study("s", note="fever"), predictor.bundle

    def bounded(present_from, absent_to):
        bounds = ConformalBounds(coverage=0.8, present_from=present_from, absent_to=absent_to)
        return {"note": dict.fromkeys(bundle.task.finding_names, bounds)}

    for bounds, word in ((bounded(0.0, 1.0), "uncertain"), (bounded(1.0, 0.0), None)):
        result = Predictor(replace(bundle, conformal=bounds)).predict(study)
        assert result.coverage == 0.8
        for found in result.findings:
            assert found.certainty == (word or ("present" if found.positive else "absent"))
    classes = bundle.task.model_copy(update={"problem": "multiclass"})
    either = replace(bundle, task=classes, operating_points={}, conformal=bounded(0.0, None))
    result = Predictor(either).predict(study)
    assert result.classes == bundle.task.finding_names
    one = Predictor(replace(either, conformal=bounded(1.0, None))).predict(study)
    assert one.classes == tuple(f.finding for f in one.findings if f.positive)
    assert sorted(f.certainty for f in one.findings) == ["absent", "present"]
