"""The note encoder: unit length, one reading per distinct note, and the same after a save."""

import numpy as np
import pytest

from cxr_mm.errors import WeightsError
from cxr_mm.models.note_encoder import NoteEncoder


@pytest.fixture(scope="module")
def encoder():
    return NoteEncoder.open("packaged", 64)


def test_like_notes_lie_near_each_other_and_rows_follow_the_order_given(encoder):
    notes = ["fever and productive cough", "pyrexia, coughing up sputum", "fractured left ankle"]
    rows = encoder.embed([*notes, notes[0]], batch_size=2)
    assert rows.shape == (4, encoder.dim)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2] + 0.2
    assert np.array_equal(rows[0], rows[3])
    assert encoder.embed([]).shape == (0, encoder.dim)


def test_saved_and_opened_it_is_equal_to_the_bit(encoder, tmp_path):
    encoder.save(tmp_path)
    again = NoteEncoder.open(str(tmp_path), 64)
    assert np.array_equal(again.embed(["no fever"]), encoder.embed(["no fever"]))


def test_a_longer_note_is_cut_and_not_refused(encoder):
    assert np.isfinite(encoder.embed(["word " * 3000])).all()


def test_a_name_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"embed\.note_encoder"):
        NoteEncoder.open(str(tmp_path), 64)
