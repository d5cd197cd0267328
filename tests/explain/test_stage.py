"""Stage explain: on the small pipeline, with true masks to be measured against."""

import numpy as np
import pytest

from cxr_mm.core.config import ExplainParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.explain import methods
from cxr_mm.explain.estimators import lime_fit, shapley_values
from cxr_mm.explain.methods import METHODS
from cxr_mm.explain.stage import explain

SMALL = ExplainParams(
    gallery=4, studies=1, slow_studies=1, localisation=2, importance=6, time_limit=None
)


PART = 8
"""By which the samples of SHAP and LIME are divided: of one study no figure is judged."""


@pytest.fixture(scope="module")
def paths(pipeline):
    params = pipeline.params.model_copy(update={"explain": SMALL})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            methods, "shapley_values", lambda game, seed, n: shapley_values(game, seed, n // PART)
        )
        patch.setattr(methods, "lime_fit", lambda game, n, seed: lime_fit(game, n // PART, seed))
        explain(pipeline.task, params, pipeline.paths)
    return pipeline.paths


def test_each_case_has_its_shares_and_its_image(paths):
    cases = read_json(paths.explanations / "gallery.json")["cases"]
    assert 0 < len(cases) <= 4
    for case in cases:
        total = case["base"] + sum(case["shares"].values())
        assert total == pytest.approx(case["logit"], abs=1e-5)
        assert (case["image"] is not None) == ("image" in case["shares"])
        assert case["image"] is None or (paths.explanations / case["image"]).is_file()
        assert "patient_id" not in case


def test_faithfulness_has_every_method_and_the_true_areas(paths):
    figures = read_json(paths.faithfulness)
    assert figures["synthetic"]
    assert list(figures["methods"]) == list(METHODS)
    assert set(figures["localisation"]) == {"consolidation", "effusion"}
    assert set(figures["methods"]["grad_cam"]["areas"]) == {"consolidation", "effusion"}
    assert figures["methods"]["shap_note"]["areas"] == {}
    for finding in figures["localisation"].values():
        images = {m.name for m in METHODS.values() if m.modality == "image" and not m.slow}
        assert set(finding) == images
        assert 0 < finding["grad_cam"]["n"] <= 4
        assert finding["grad_cam"]["beats_average"] is False
        for name in ("energy", "pointing", "iou", "chance_energy", "gain", "against_average"):
            figure = finding["grad_cam"][name]
            assert np.isfinite(figure["value"])
            assert figure["low"] is figure["high"] is None  # of so few patients


def test_what_moves_the_model_is_averaged_over_studies(paths):
    moved = read_json(paths.explanations / "gallery.json")["importance"]["effusion"]
    assert set(moved["modalities"]) == {"image", "tabular", "note"}
    assert set(moved["clinical"]) >= {"age", "temperature"}
    assert all(figure["value"] >= 0 for kind in moved.values() for figure in kind.values())


def test_the_page_is_one_file_that_says_what_it_is(paths):
    text = (paths.explanations / "index.html").read_text(encoding="utf-8")
    assert "SYNTHETIC" in text
    assert text.count("<article") == len(read_json(paths.explanations / "gallery.json")["cases"])


def test_within_its_time_it_ends_and_says_what_is_left(pipeline, tmp_path, caplog):
    root = tmp_path / "project"
    root.mkdir()
    for folder in ("data", "models"):
        (root / folder).symlink_to(pipeline.paths.root / folder)
    paths = TaskPaths(pipeline.task.name, root)
    chosen = ExplainParams(time_limit=0.01, slow_studies=2)
    explain(pipeline.task, pipeline.params.model_copy(update={"explain": chosen}), paths)
    figures = read_json(paths.faithfulness)
    assert figures["unmeasured"]["slow methods"] == "0 of 2 studies reached"
    assert set(figures["unmeasured"]) >= {"quick methods", "true areas of effusion"}
    assert figures["methods"] == {}
    said = [line for line in caplog.messages if "cut short by explain.time_limit = 0.01 s" in line]
    assert len(said) == len(figures["unmeasured"])
    page = (paths.explanations / "index.html").read_text(encoding="utf-8")
    assert "Cut short by explain.time_limit: slow methods, 0 of 2 studies reached." in page


def test_by_default_no_method_takes_minutes_a_study_and_the_time_is_bounded():
    assert ExplainParams().slow_studies == 0
    assert ExplainParams().time_limit <= 150


def test_lung_masks_that_are_not_there_are_asked_for(pipeline, paths, tmp_path):
    chosen = SMALL.model_copy(update={"lung_masks": str(tmp_path)})
    before = paths.faithfulness.read_bytes()
    with pytest.raises(StageError, match="lung_masks"):
        explain(pipeline.task, pipeline.params.model_copy(update={"explain": chosen}), paths)
    assert paths.faithfulness.read_bytes() == before


def test_before_fuse_it_says_which_stage_is_missing(pipeline, tmp_path):
    empty = TaskPaths(pipeline.task.name, tmp_path)
    (tmp_path / "models" / empty.task).mkdir(parents=True)
    (empty.bundle).symlink_to(pipeline.paths.bundle)
    with pytest.raises(StageError, match="fuse"):
        explain(pipeline.task, pipeline.params, empty)
    assert not empty.explanations.exists()
