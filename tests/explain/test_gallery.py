"""Stage explain: on the small pipeline, with true masks to be measured against."""

import pytest

from cxr_mm.errors import StageError
from cxr_mm.explain.gallery import explain
from cxr_mm.files import read_json
from cxr_mm.params import ExplainParams
from cxr_mm.paths import TaskPaths


@pytest.fixture(scope="module")
def folder(pipeline):
    params = pipeline.params.model_copy(
        update={"explain": ExplainParams(gallery=4, localisation=6)}
    )
    explain(pipeline.task, params, pipeline.paths)
    return pipeline.paths.explanations


def test_each_case_has_its_shares_and_its_film(folder):
    cases = read_json(folder / "gallery.json")["cases"]
    assert 0 < len(cases) <= 4
    for case in cases:
        total = case["base"] + sum(case["shares"].values())
        assert total == pytest.approx(case["logit"], abs=1e-5)
        assert (case["film"] is not None) == ("image" in case["shares"])
        assert case["film"] is None or (folder / case["film"]).is_file()
        assert "patient_id" not in case


def test_faithfulness_has_figures_with_intervals(folder):
    figures = read_json(folder / "faithfulness.json")
    assert figures["synthetic"]
    assert set(figures["localisation"]) == {"consolidation", "effusion"}
    for finding in figures["localisation"].values():
        assert 0 < finding["n"] <= 6
        for name in ("energy", "pointing", "iou", "chance_energy", "gain"):
            assert finding[name]["low"] <= finding[name]["value"] <= finding[name]["high"]


def test_the_page_is_one_file_that_says_what_it_is(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "SYNTHETIC" in text
    assert text.count("<article") == len(read_json(folder / "gallery.json")["cases"])


def test_before_fuse_it_says_which_stage_is_missing(pipeline, tmp_path):
    empty = TaskPaths(pipeline.task.name, tmp_path)
    (tmp_path / "models" / empty.task).mkdir(parents=True)
    (empty.bundle).symlink_to(pipeline.paths.bundle)
    with pytest.raises(StageError, match="fuse"):
        explain(pipeline.task, pipeline.params, empty)
    assert not empty.explanations.exists()
