"""Gallery page: one file that loads nothing, says what it is, and escapes what it shows."""

import re

import pytest

from cxr_mm.core.task import load_task
from cxr_mm.explain.attribution import Explanation, Target
from cxr_mm.explain.cases import Case
from cxr_mm.explain.faithfulness.metrics import Localisation
from cxr_mm.explain.pages import card, gallery_page

AREA_FIGURES = (*Localisation.__dataclass_fields__, "average_precision")
FIGURE = {"value": 0.31, "low": 0.2, "high": 0.4}
AREAS = dict.fromkeys(AREA_FIGURES, FIGURE)
METHOD = {
    "modality": "image",
    "n": 30,
    "patients": 30,
    **dict.fromkeys(("gain", "sparsity", "noise"), FIGURE),
    "randomised": {"fusion": FIGURE, "all": FIGURE},
    "better_than_chance": False,
    "depends_on_weights": True,
    "faithful": "no: not shown to be better than chance",
}
FAITHFULNESS = {
    "methods": {
        "grad_cam": METHOD,
        "eigen_cam": {**METHOD, "faithful": "not measured: fewer than 30 studies"},
    },
    "localisation": {"effusion": {"grad_cam": {"n": 60, **AREAS, "beats_average": False}}},
    "unmeasured": {"slow methods": "1 of 6 studies reached"},
}
MOVED = {"effusion": {"clinical": {"age": {"n": 9, **FIGURE}, "spo2": {"n": 9, **FIGURE}}}}


@pytest.fixture
def text():
    task = load_task("synthetic")
    case = Case("<i>s1</i>", "effusion", "false positive", 0.7, 0.4)
    result = Explanation("s1", Target("effusion"), 0.1, {"image": 0.5}, 0.6)
    cards = [card(task, case, result, "data:image/png;base64,AAAA"), card(task, case, result, None)]
    return gallery_page(task, "abcdef0123456789", cards, FAITHFULNESS, MOVED)


def test_it_loads_nothing_from_anywhere(text):
    assert "<script" not in text
    assert "<link" not in text
    assert all(source.startswith("data:") for source in re.findall(r'src="([^"]*)"', text))
    assert not re.findall(r"https?://|url\(|@import", text)


def test_it_says_what_it_is(text):
    assert "Decision support for research only" in text
    assert "SYNTHETIC" in text
    assert "abcdef012345" in text
    assert "0.31 (0.20 to 0.40)" in text
    assert "not shown to be better than chance" in text
    assert "Cut short by explain.time_limit: slow methods, 1 of 6 studies reached." in text
    assert "not measured: fewer than 30 studies" in text
    assert "<td>yes</td>" not in text
    assert "Oxygen saturation" in text


def test_ids_are_escaped_and_wrong_ones_stand_out(text):
    assert "<i>s1" not in text
    assert 'class="wrong"' in text


def test_without_images_it_says_that_nothing_was_measured():
    raw = gallery_page(
        load_task("icu"), "d", [], {"methods": {}, "localisation": None, "unmeasured": {}}, {}
    )
    assert "Nothing was measured" in raw
    assert "SYNTHETIC" not in raw
    assert "cross-validated" in raw
