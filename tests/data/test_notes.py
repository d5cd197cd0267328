"""Notes: the mask hides what would name the answer and only that; traits count what they say."""

import pytest

from cxr_mm.core.errors import NoteError
from cxr_mm.core.task import NoteSpec
from cxr_mm.data.notes import NOTE_TRAITS, mask_note, note_traits


def test_every_match_is_hidden_whatever_its_case():
    spec = NoteSpec(mask=(r"\beffusions?\b", r"covid\S*"))
    assert mask_note("No Effusion,\n COVID-19 suspected", spec) == "No [MASK], [MASK] suspected"


def test_a_note_without_patterns_only_has_its_blanks_settled():
    assert mask_note("  a\t b \n", NoteSpec()) == "a b"


@pytest.mark.parametrize(("text", "said"), [("x" * 20_001, "too many"), ("a\x00b", "no text")])
def test_what_is_no_note_is_refused(text, said):
    with pytest.raises(NoteError, match=said):
        mask_note(text, NoteSpec())


def test_each_trait_counts_what_it_says():
    traits = note_traits("No fever, no cough. The CRP was 12.5 at [MASK], then 80.")
    assert tuple(traits) == NOTE_TRAITS
    assert traits["words"] == 9
    assert traits["distinct"] == pytest.approx(8 / 9)
    assert traits["negation"] == pytest.approx(2 / 9)
    assert traits["joining"] == pytest.approx(3 / 9)
    assert traits["figures"] == pytest.approx(2 / 9)
    assert traits["masked"] == 1


def test_another_language_has_hardly_a_joining_word():
    english = note_traits("The patient was admitted with fever and a cough of three days.")
    german = note_traits("Der Patient wurde mit Fieber und Husten seit drei Tagen aufgenommen.")
    assert english["joining"] > 0.4
    assert german["joining"] == 0


def test_a_note_without_a_word_has_traits_too():
    assert note_traits("")["words"] == 0
    assert note_traits("12 – 7")["figures"] == 2
