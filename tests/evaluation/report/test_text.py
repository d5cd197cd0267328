import pytest

from cxr_mm.evaluation.report.text import number, p_value, plain, with_interval


def test_text_from_outside_is_no_markup():
    assert plain("10*9/L <b>`x`\n  y | z") == r"10\*9/L \<b>\`x\` y \| z"


@pytest.mark.parametrize(
    ("figure", "text"),
    [
        ({"value": None, "ci95": None}, "–"),
        ({"value": 0.5, "ci95": None}, "0.500"),
        ({"value": 0.5, "ci95": [0.25, 0.75]}, "0.500 [0.250, 0.750]"),
    ],
)
def test_figures(figure, text):
    assert with_interval(figure) == text


def test_numbers():
    assert (number(None), number(0.12345)) == ("–", "0.123")
    assert (p_value(None), p_value(0.0004), p_value(0.0316)) == ("–", "< 0.001", "= 0.032")
