"""The answer: warnings come first and nothing from outside becomes markup."""

from app.ui import answer
from cxr_mm.core.prediction import FindingPrediction, Prediction
from cxr_mm.core.task import load_task


def prediction(**changes):
    finding = FindingPrediction(
        finding="icu", title="ICU", probability=0.5, threshold=0.4, positive=True
    )
    values = {
        "study_id": "s",
        "task": "icu",
        "model": "m",
        "digest": "d",
        "modalities": ("image",),
        "findings": (finding,),
        "warnings": ("view: <i>odd</i>",),
    }
    return Prediction(**(values | changes))


def test_warnings_are_escaped_and_absent_where_there_are_none():
    assert "&lt;i&gt;odd" in answer.piece("warnings", prediction().warnings)
    assert answer.piece("warnings", ()) == ""


def test_uncertain_is_explained_where_it_is_said_and_nowhere_else():
    (finding,) = prediction().findings
    assert answer.uncertainty(prediction(coverage=0.9)) == ""
    doubted = finding.model_copy(update={"certainty": "uncertain", "title": "<b>ICU"})
    text = answer.uncertainty(prediction(coverage=0.9, findings=(doubted,)))
    assert "stays in 90 of 100" in text
    assert "ICU" not in text
    text = answer.uncertainty(prediction(coverage=0.9, findings=(doubted,), classes=("icu",)))
    assert "&lt;b&gt;ICU: Uncertain" in text


def test_inputs_used_and_not_given_are_both_said():
    text = answer.piece("used", answer.inputs(load_task("icu"), prediction()))
    assert "Image: used" in text
    assert "Note: not given" in text


def test_notices_mark_made_up_data():
    assert "SYNTHETIC" in answer.notices(load_task("synthetic"))
    assert "SYNTHETIC" not in answer.notices(load_task("icu"))


def test_a_masked_note_shows_what_is_hidden_and_escapes_the_rest():
    text = answer.masked_note("<script> [MASK] fever")
    assert "<mark>[MASK]</mark>" in text
    assert "<script>" not in text
