"""One study explained into a folder: JSON, PNGs and a page, from any subset of the modalities."""

import re

import pytest

from cxr_mm.core.errors import InputError
from cxr_mm.core.files import read_json, write_json
from cxr_mm.core.study import Study
from cxr_mm.explain.study import Question, explain_study
from cxr_mm.inference.predictor import Predictor
from tests.explain.conftest import PASSED


@pytest.fixture(scope="module")
def predictor(bundle):
    return Predictor(bundle, accept_any_image=True)


@pytest.fixture(scope="module")
def folder(predictor, a_study, tmp_path_factory):
    out = tmp_path_factory.mktemp("one") / "said"
    page = explain_study(predictor, a_study(0), Question()).write(out)
    assert page == out / "index.html"
    return out


def test_the_json_adds_up_and_names_its_pictures(folder, bundle):
    result = read_json(folder / "explanation.json")
    assert [e["finding"] for e in result["explanations"]] == list(bundle.task.finding_names)
    for explanation in result["explanations"]:
        for unit in ("logit", "probability"):
            parts = explanation[unit]
            total = parts["base"] + sum(parts["shares"].values())
            assert total == pytest.approx(parts["sum"], abs=1e-5)
        methods = [a["method"] for a in explanation["attributions"]]
        assert methods == ["grad_cam", "shap_tabular", "shap_note"]
        assert (folder / explanation["attributions"][0]["image"]).is_file()
        curves = result["what_if"][explanation["finding"]]
        assert [c["feature"] for c in curves] == list(bundle.task.clinical_names)
    assert result["prediction"]["digest"] == bundle.digest


def test_the_page_loads_nothing_and_says_what_it_is(folder):
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "Decision support for research only" in text
    assert "SYNTHETIC" in text
    assert "<script" not in text
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert "Age: 71" in text
    assert "usually" in text
    assert "not known" in text
    assert ">dull</span>" in text


@pytest.mark.parametrize(
    ("given", "methods"),
    [
        ({"note": "Fever <b>and</b> cough."}, ["shap_note"]),
        ({"clinical": {"age": 60.0}}, ["shap_tabular"]),
    ],
)
def test_what_a_study_lacks_is_not_explained(predictor, tmp_path, given, methods):
    study, question = Study("<i>s</i>", **given), Question(("effusion",))
    page = explain_study(predictor, study, question).write(tmp_path / "o")
    (only,) = read_json(tmp_path / "o" / "explanation.json")["explanations"]
    assert [a["method"] for a in only["attributions"]] == methods
    text = page.read_text(encoding="utf-8")
    assert "<b>and" not in text
    assert "<i>s" not in text


def test_faithfulness_of_this_bundle_is_said_and_chooses_the_methods(predictor, a_study, tmp_path):
    failed = {**PASSED, "better_than_chance": False}
    file = tmp_path / "faithfulness.json"
    digest = predictor.bundle.digest
    write_json(file, {"digest": digest, "methods": {"grad_cam": failed, "layer_cam": PASSED}})
    question = Question(("effusion",), faithfulness=file)
    page = explain_study(predictor, a_study(0), question).write(tmp_path / "o")
    (only,) = read_json(tmp_path / "o" / "explanation.json")["explanations"]
    assert only["attributions"][0]["method"] == "grad_cam_plus_plus"
    assert "has not been measured" in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("question", "said"),
    [
        (Question(findings=("gout",)), "consolidation, effusion"),
        (Question(methods=("tea_leaves",)), "grad_cam"),
    ],
)
def test_what_does_not_exist_leaves_nothing_behind(predictor, a_study, tmp_path, question, said):
    with pytest.raises(InputError, match=said):
        explain_study(predictor, a_study(0), question).write(tmp_path / "o")
    assert not (tmp_path / "o").exists()


def test_figures_of_another_bundle_are_refused_where_given_and_ignored_where_found(
    predictor, a_study, tmp_path, monkeypatch
):
    other = tmp_path / "reports" / predictor.bundle.task.name / "faithfulness.json"
    other.parent.mkdir(parents=True)
    write_json(other, {"digest": "another", "methods": {}})
    with pytest.raises(InputError, match="another bundle"):
        explain_study(predictor, a_study(0), Question(faithfulness=other)).write(tmp_path / "o")
    monkeypatch.chdir(tmp_path)
    page = explain_study(predictor, a_study(0), Question(("effusion",))).write(tmp_path / "o")
    assert "has not been measured" in page.read_text(encoding="utf-8")
