"""Measure: figures of the methods on the small pipeline, and their verdicts."""

import pytest

from cxr_mm.data.manifest import load_manifest
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.measure import measure
from cxr_mm.explain.faithfulness.metrics import faithful_methods, verdict, verdict_word
from cxr_mm.explain.methods import METHODS
from tests.explain.conftest import PASSED

MEASURED = ["grad_cam", "eigen_cam", "shap_tabular", "lime_tabular", "shap_note"]


@pytest.fixture(scope="module")
def found(bundle, pipeline):
    studies = Studies(load_manifest(pipeline.paths, pipeline.task), pipeline.paths.pixels)
    rows = [s for s in studies.frame["study_id"] if studies.has_image(s)][:2]
    cases = [(studies.study(s, with_image=True), Target("effusion")) for s in rows]
    return measure(bundle, cases, [METHODS[name] for name in MEASURED], seed=0)


def test_each_method_has_its_figures_with_intervals(found):
    assert list(found) == MEASURED
    assert {figures["faithful"] for figures in found.values()} == {
        verdict_word({"n": 6, "patients": 6})
    }
    for name, figures in found.items():
        assert 0 < figures["n"] <= 2
        for measured in ("deletion", "insertion", "gain", "sparsity", "noise"):
            figure = figures[measured]
            assert figure["low"] is None  # of two patients
        assert ("seeds" in figures) == METHODS[name].seeded
        assert ("r2" in figures) == name.startswith("lime")
        depths = {"fusion", "upper", "all"} if figures["modality"] == "image" else {"fusion"}
        assert set(figures["randomised"]) <= depths


def test_shap_of_a_linear_head_is_better_than_chance_and_depends_on_weights(found):
    for name in ("shap_tabular", "shap_note"):
        assert found[name]["gain"]["value"] > 0
    assert found["shap_tabular"]["depends_on_weights"]


def test_a_map_without_a_question_does_not_change_with_the_head(found):
    assert found["eigen_cam"]["randomised"]["fusion"]["value"] == pytest.approx(1)
    assert found["grad_cam"]["randomised"]["fusion"]["value"] < 0.9


def test_a_method_that_fails_is_said_to_and_another_shown():
    good = {**PASSED, "gain": {"value": 0.1, "low": -0.1, "high": 0.3}}
    chance = {**good, "better_than_chance": False}
    stubborn = {**good, "depends_on_weights": False}
    assert "beats a random one by 0.10 logits (-0.10 to 0.30, 30 studies)" in verdict(good)
    assert "Not shown to be better than chance" in verdict(chance)
    assert "do not rely on it" in verdict(stubborn)
    assert "not been measured" in verdict(None)
    few = {**good, "n": 29}
    assert "not been measured for this model: 29 studies of 10 patients, 30 studies" in verdict(few)
    assert verdict_word(few) == "not measured: fewer than 30 studies of 10 patients"
    assert verdict_word({**good, "patients": 9}) == verdict_word(few)
    assert verdict_word(good) == "yes"
    assert faithful_methods({"grad_cam": {**chance, "n": 29}})[0] == "grad_cam"
    assert faithful_methods({}) == ["grad_cam", "shap_tabular", "shap_note"]
    assert faithful_methods({"grad_cam": chance, "shap_note": stubborn, "lime_note": chance}) == [
        "grad_cam_plus_plus",
        "shap_tabular",
    ]
