"""Health tab: what it says of a model, and that it fetches nothing before it is looked at."""

from datetime import UTC, datetime
from pathlib import Path

import gradio as gr
import pytest

from app.monitoring_reports import Evaluation, Report, Verdict
from app.service import InferenceService
from app.ui import health
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import load_task
from cxr_mm.evaluation.evaluate import evaluate
from cxr_mm.inference.predictor import load_predictor

MISSING = StageError("monitoring has made no <report>", field="icu", remedy="Run it")


MOVED = {"name": "x", "title": "X", "score": 5.0, "limit": 3.0}


def report(**changes):
    values = {
        "status": "alarm",
        "task": "icu",
        "digest": "aa",
        "n": 60,
        "n_labelled": 0,
        "first": "2026-03-01T08:00:00.123+00:00",
        "last": "2026-03-02T09:30:00+00:00",
        "headline": "60 <studies>",
        "reasons": (
            {**MOVED, "level": "alarm", "drift": "concept", "text": "AUC <fell>"},
            {**MOVED, "level": "warn", "drift": "data", "text": "Age moved"},
        ),
        "notes": ("2 <left> out",),
    }
    made = datetime(2026, 3, 3, 6, tzinfo=UTC)
    return Report(Path("reports"), made, Verdict.model_validate(values | changes))


def evaluated_as(n):
    figure = {"value": 0.9, "ci95": [0.85, 0.94]}
    figures = {"auc": figure, "sensitivity": figure, "specificity": {"value": None, "ci95": None}}
    subset = {"n": n, "findings": {"icu": figures}}
    subsets = {"available": subset, "image+note": subset}
    return Evaluation({"n_studies": n, "n_patients": 40, "subsets": subsets}, "", ())


@pytest.fixture(scope="module")
def service(bundle_folder):
    return InferenceService(load_predictor(bundle_folder), None)


def test_the_verdict_is_a_word_with_its_date_and_what_to_do():
    text = health.verdict_box(report())
    assert '<p class="word">Alarm</p>' in text
    assert "Report of 2026-03-03 06:00 UTC" in text
    assert "2026-03-01 08:00 to 2026-03-02 09:30" in text
    assert "Rely on no answer" in text
    assert text.index("AUC") < text.index("Age moved")


def test_what_comes_from_a_report_is_escaped():
    text = health.verdict_box(report())
    for words in ("60 <studies>", "AUC <fell>", "2 <left> out"):
        assert words not in text
        assert words.replace("<", "&lt;").replace(">", "&gt;") in text
    assert "no &lt;report&gt;" in health.verdict_box(MISSING)


def test_every_status_has_words_of_its_own():
    said = {
        status: health.verdict_box(report(status=status, reasons=()))
        for status in ("ok", "warn", "alarm", "too_small")
    }
    assert len(set(said.values())) == 4
    assert not any("What moved" in text for text in said.values())


def test_figures_stand_with_their_intervals_for_every_subset():
    text = health.figures_table(load_task("icu"), evaluated_as(80))
    assert "80 studies of 40 patients" in text
    assert "0.90 [0.85, 0.94]" in text
    assert "Whatever each study has" in text
    assert '<th scope="row">Image + Note</th>' in text
    assert "<td>–</td>" in text
    assert "Made-up" not in text


def test_made_up_figures_are_marked():
    assert "Made-up" in health.figures_table(load_task("synthetic"), evaluated_as(80))


def test_with_nothing_measured_the_commands_are_named_and_no_frame_is_shown(
    service, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    verdict, figures, card, summary, evidently, *folds = health.on_open(service, "synthetic")
    assert "python -m monitoring report" in verdict
    assert "dvc repro evaluate@synthetic" in figures
    assert (card, summary, evidently) == ("", "", "")
    assert not any(fold["visible"] for fold in folds)
    assert health.on_plots(service) == ""


def test_the_card_the_figures_and_the_plots_of_this_bundle_are_shown(
    service, pipeline, monkeypatch
):
    quick = EvaluateParams(bootstrap=100)
    params = pipeline.params.model_copy(update={"evaluate": quick})
    evaluate(pipeline.task, params, pipeline.paths)
    monkeypatch.chdir(pipeline.paths.root)
    _, figures, card, _, _, *folds = health.on_open(service, "synthetic")
    assert "Image + Clinical features + Note" in figures
    assert service.bundle.digest in card
    assert [fold["visible"] for fold in folds] == [True, True, False, False]
    plots = health.on_plots(service)
    assert (
        plots.count("<img")
        == plots.count('alt="')
        == len(list(Path().glob("reports/*/plots/*.png")))
    )
    assert 'alt="ROC curve of each finding"' in plots


def test_a_frame_is_apart_from_the_page_and_waits_until_it_is_seen():
    text = health.frame("/reports/icu/evidently", 'Evidently "x"')
    assert 'sandbox="allow-scripts"' in text
    assert "allow-same-origin" not in text
    assert 'loading="lazy"' in text
    assert 'title="Evidently &#34;x&#34;"' in text


def test_the_tab_holds_nothing_of_a_report_until_it_is_chosen(service):
    with gr.Blocks() as page, gr.Tabs(), gr.Tab("Model health") as tab:
        health.build(service, tab)
    text = str(page.get_config_file()["components"])
    assert "<iframe" not in text
    assert service.task.caveats[0] in text
    cards = [c for c in page.blocks.values() if isinstance(c, gr.Markdown)]
    assert [card.sanitize_html for card in cards] == [True]
    events = {event for fn in page.fns.values() for _, event in fn.targets}
    assert events == {"select", "expand"}
