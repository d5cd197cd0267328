"""One canonical order of modalities, whatever order they are named in."""

from cxr_mm.core.types import subset_name, subsets


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
