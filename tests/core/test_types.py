"""One canonical order of modalities, whatever order they are named in."""

import pytest

from cxr_mm.core.types import plural, subset_name, subsets


def test_subsets_singles_first_the_whole_last():
    names = [subset_name(s) for s in subsets(["note", "tabular", "image"])]
    assert names == [
        "image",
        "tabular",
        "note",
        "image+tabular",
        "image+note",
        "tabular+note",
        "image+tabular+note",
    ]


def test_subsets_of_fewer():
    assert subsets(("note", "image")) == [("image",), ("note",), ("image", "note")]
    assert subsets(()) == []


def test_name_ignores_order_and_repeats():
    assert subset_name(["note", "image", "note"]) == "image+note"
    assert subset_name([]) == ""


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "study", "1 study"),
        (0, "held-out study", "0 held-out studies"),
        (2000, "image", "2,000 images"),
        (1, "bad row", "1 bad row"),
    ],
)
def test_a_noun_follows_its_number(number, noun, text):
    assert plural(number, noun) == text
