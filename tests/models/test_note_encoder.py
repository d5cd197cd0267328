"""The note encoder: unit length, one reading per distinct note, and the same after a save."""

import numpy as np
import pytest

from cxr_mm.core.errors import WeightsError
from cxr_mm.data.notes import MASK
from cxr_mm.models.note_encoder import NoteEncoder


@pytest.fixture(scope="module")
def encoder():
    return NoteEncoder.open("packaged", 64, 128)


def test_like_notes_lie_near_each_other_and_rows_follow_the_order_given(encoder):
    notes = ["fever and productive cough", "pyrexia, coughing up sputum", "fractured left ankle"]
    rows = encoder.embed([*notes, notes[0]], batch_size=2)
    assert rows.shape == (4, encoder.dim)
    ends = np.cumsum([part.length for part in encoder.parts])
    meaning, words, pairs, pieces, none = np.split(rows, ends, axis=1)
    assert none.shape[1] == 0
    np.testing.assert_allclose(np.linalg.norm(meaning, axis=1), 1, atol=1e-5)
    assert meaning[0] @ meaning[1] > meaning[0] @ meaning[2] + 0.2
    assert words[0] @ words[1] == pytest.approx(0, abs=1e-6)  # not a word in common
    np.testing.assert_allclose(np.expm1(words[0]).sum(), 4, rtol=1e-5)
    np.testing.assert_allclose(np.expm1(pairs[0]).sum(), 3, rtol=1e-5)
    assert pieces[0] @ pieces[1] > 0  # cough, and coughing
    assert np.array_equal(rows[0], rows[3])
    assert encoder.embed([]).shape == (0, encoder.dim)


def test_that_something_was_hidden_is_not_embedded(encoder):
    hidden, without = encoder.embed([f"fever, {MASK} , cough", "fever, , cough"])
    assert np.array_equal(hidden, without)


def test_a_note_without_a_word_has_no_words(encoder):
    assert not encoder.embed([MASK])[0, encoder.parts[0].length :].any()


def test_saved_and_opened_it_is_equal_to_the_bit(encoder, tmp_path):
    encoder.save(tmp_path)
    again = NoteEncoder.open(str(tmp_path), 64, 128)
    assert np.array_equal(again.embed(["no fever"]), encoder.embed(["no fever"]))


def test_a_longer_note_is_cut_and_not_refused(encoder):
    assert np.isfinite(encoder.embed(["word " * 3000])).all()


def test_a_name_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"embed\.note_encoder"):
        NoteEncoder.open(str(tmp_path), 64, 128)
