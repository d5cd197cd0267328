"""Bars: words, numbers and escapes."""

import pytest

from cxr_mm.core.prediction import FindingPrediction, OperatingPoint, percent
from cxr_mm.explain.attribution import Explanation, Target
from cxr_mm.explain.html import probability_bar, share_bars


@pytest.mark.parametrize(
    ("probability", "text"),
    [
        (0.0, "0.0 %"),
        (1e-5, "< 0.1 %"),
        (0.4216, "42.2 %"),
        (0.99999, "> 99.9 %"),
        (1.0, "100.0 %"),
    ],
)
def test_percent_claims_no_certainty(probability, text):
    assert percent(probability) == text


def said(**changes):
    values = {
        "finding": "effusion",
        "title": "<script>x</script>",
        "probability": 0.6,
        "threshold": 0.25,
        "positive": True,
    }
    return FindingPrediction(**(values | changes))


def test_probability_bar_draws_the_operating_point_and_escapes():
    point = OperatingPoint(threshold=0.25, reason="youden", sensitivity=0.9, specificity=0.7)
    html = probability_bar(said(), point)
    assert "<script>" not in html
    assert "width:60.00%" in html
    assert "25.00%" in html
    assert "positive" in html
    assert "prevalence; there sensitivity 0.90" in html
    balanced = point.model_copy(update={"threshold": 0.5})
    assert "a half, for balanced classes; there" in probability_bar(said(), balanced)


def test_a_high_probability_below_the_threshold_is_said_with_the_threshold():
    found = said(probability=0.779, threshold=0.81, positive=False)
    assert "77.9 % · negative: below the operating point of 81.0 %" in probability_bar(found)
    assert said().in_words == "positive: at or above the operating point of 25.0 %"


def test_a_class_without_threshold_has_no_tick():
    html = probability_bar(said(threshold=None, positive=False))
    assert "cxr-tick" not in html
    assert "less likely" in html


def test_what_is_uncertain_says_so_in_word_and_colour_and_keeps_the_answer():
    html = probability_bar(said(certainty="uncertain"))
    assert "uncertain, positive" in html
    assert "cxr-fill unsure" in html
    assert "uncertain" not in probability_bar(said(certainty="present"))
    html = probability_bar(said(certainty="uncertain", threshold=None, positive=False))
    assert "uncertain, less likely" in html


def test_shares_point_to_the_side_they_speak_for():
    shares = {"image": 1.0, "note": -0.5}
    html = share_bars(Explanation("s", Target("effusion"), -0.001, shares, 0.499))
    image, note = html.index("Image"), html.index("Note")
    assert html.index("cxr-for") > image
    assert html.index('cxr-against" style="width:25') > note
    assert "−0.50" in html
    assert "−0.00" not in html
