"""Units: converted within a kind, to the right value; anything else is refused by name."""

import pytest

from app.pacs.context.units import KINDS, converted, normal
from cxr_mm.core.errors import ClinicalError


@pytest.mark.parametrize(
    ("value", "unit", "wanted", "expected"),
    [
        (5, "mg/dL", "mg/L", 50),
        (50, "mg/L", "mg/dL", 5),
        (98.6, "[degF]", "Cel", 37),
        (37, "Cel", "[degF]", 98.6),
        (310.15, "K", "Cel", 37),
        (-40, "degF", "Cel", -40),
        (37.5, "°C", "Cel", 37.5),
        (11.2, "10*3/uL", "10*9/L", 11.2),
        (11200, "/uL", "10*9/L", 11.2),
        (11.2, "x10^9/l", "10*9/L", 11.2),
        (4.5, "10*6/uL", "10*12/L", 4.5),
        (3.8, "g/dL", "g/L", 38),
        (90, "µmol/L", "mmol/L", 0.09),
        (0.97, "1", "%", 97),
        (80, "{beats}/min", "/min", 80),
        (16, "kPa", "mm[Hg]", 120.0098521),
        (120, "mmHg", "mm[Hg]", 120),
        (6, "mo", "a", 0.5),
        (5, "mg/dl", "mg/L", 50),
        (7, "", "", 7),
    ],
)
def test_a_value_is_the_same_in_another_unit(value, unit, wanted, expected):
    assert converted(value, unit, wanted, "x") == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("unit", "wanted", "message"),
    [
        ("", "mg/L", "it has no unit"),
        ("mmol/L", "mg/L", "unit 'mmol/L' cannot be converted"),
        ("F", "Cel", "unit 'F' is unknown"),
        ("C", "Cel", "unit 'C' is unknown"),
        ("K/uL", "10*9/L", "unit 'K/uL' is unknown"),
        ("MG/DL", "mg/L", "unit 'MG/DL' is unknown"),
        ("mg", "mg/L", "unit 'mg' is unknown"),
        ("mg/L", "", "unit 'mg/L' cannot be converted"),
        ("x" * 5000, "mg/L", f"unit '{'x' * 20}' is unknown"),
    ],
)
def test_a_unit_is_never_guessed(unit, wanted, message):
    with pytest.raises(ClinicalError, match="crp") as raised:
        converted(1, unit, wanted, "crp")
    assert raised.value.message == message


def test_every_unit_converts_to_another_and_back():
    for units in KINDS.values():
        first = next(iter(units))
        for unit in units:
            assert normal(unit) == unit
            there = converted(3.0, unit, first, "x")
            assert converted(there, first, unit, "x") == pytest.approx(3.0, rel=1e-8)
