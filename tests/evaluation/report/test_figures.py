"""Figures are read with the model they are of, and a dozen of them go to DVC."""

import pytest

from cxr_mm.core.errors import StageError
from cxr_mm.core.files import write_json
from cxr_mm.evaluation.report.figures import headline_figures, read_metrics

ONE, OTHER = "a" * 64, "b" * 64


@pytest.fixture
def reports(tmp_path):
    write_json(tmp_path / "metrics.json", {"digest": ONE, "n_studies": 3})
    (tmp_path / "model_card.md").write_text(f"Card of `{ONE}`")
    return tmp_path


def test_figures_of_the_bundle_are_read(reports):
    assert read_metrics(reports, "icu", ONE)["n_studies"] == 3


@pytest.mark.parametrize("file", ["metrics.json", "model_card.md", None])
def test_figures_or_card_of_another_model_are_refused_with_the_remedy(reports, file):
    if file == "metrics.json":
        write_json(reports / file, {"digest": OTHER})
    elif file:
        (reports / file).write_text(f"Card of `{OTHER}`")
    with pytest.raises(StageError, match="of another model") as caught:
        read_metrics(reports, "icu", OTHER if file is None else ONE)
    assert "dvc repro evaluate@icu" in caught.value.remedy
    assert "dvc checkout" in caught.value.remedy


@pytest.mark.parametrize("file", ["metrics.json", "model_card.md"])
def test_missing_figures_name_the_stage(reports, file):
    (reports / file).unlink()
    with pytest.raises(StageError, match=r"no readable metrics\.json"):
        read_metrics(reports, "icu", ONE)


@pytest.mark.parametrize("settings", [{}, {"problem": "multiclass"}, {"modalities": 1}])
def test_the_headline_is_a_dozen_numbers_of_whatever_each_study_has(results_of, settings):
    metrics = results_of(**settings).metrics
    found = headline_figures(metrics)
    assert len(found) <= 12
    available = metrics["subsets"]["available"]
    whole = available.get("macro") or next(iter(available["findings"].values()))
    assert found["auc"] == whole["auc"]["value"]
    assert [found["auc_low"], found["auc_high"]] == whole["auc"]["ci95"]
    assert found["studies"] == metrics["n_studies"]
    assert all(value is None or isinstance(value, int | float) for value in found.values())
