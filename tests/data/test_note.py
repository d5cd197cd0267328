"""The note's mask: what would name the answer is hidden, and only that."""

import pytest

from cxr_mm.core.errors import NoteError
from cxr_mm.core.task import NoteSpec
from cxr_mm.data.notes import mask_note


def test_every_match_is_hidden_whatever_its_case():
    spec = NoteSpec(mask=(r"\beffusions?\b", r"covid\S*"))
    assert mask_note("No Effusion,\n COVID-19 suspected", spec) == "No [MASK], [MASK] suspected"


def test_a_note_without_patterns_only_has_its_blanks_settled():
    assert mask_note("  a\t b \n", NoteSpec()) == "a b"


@pytest.mark.parametrize(("text", "said"), [("x" * 20_001, "too many"), ("a\x00b", "no text")])
def test_what_is_no_note_is_refused(text, said):
    with pytest.raises(NoteError, match=said):
        mask_note(text, NoteSpec())
