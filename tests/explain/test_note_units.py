"""Note units: words stay whole, sentences apart, and a negated phrase is one."""

import pytest

from cxr_mm.explain.games import sentences


@pytest.mark.parametrize(
    ("note", "units"),
    [
        ("Fever and cough.", [["Fever", "and", "cough."]]),
        ("Fever. Cough; chills", [["Fever."], ["Cough;"], ["chills"]]),
        ("No pleural effusion, cough", [["No pleural effusion,", "cough"]]),
        ("No effusion or fever", [["No effusion", "or", "fever"]]),
        ("no evidence of pneumothorax", [["no evidence of pneumothorax"]]),
        ("Denies chest pain at rest today", [["Denies chest pain", "at", "rest", "today"]]),
        ("SpO2 92% , 3.5 L/min", [["SpO2", "92%", "3.5", "L/min"]]),
        ("[MASK] positive", [["positive"]]),
        ("No pleural [MASK], dull", [["No pleural", "dull"]]),
        ("known nodule", [["known", "nodule"]]),
        ("Is there a fracture? no", [["Is", "there", "a", "fracture?"], ["no"]]),
        ("... [MASK] --", []),
        ("", []),
    ],
)
def test_units(note, units):
    assert sentences(note) == units
