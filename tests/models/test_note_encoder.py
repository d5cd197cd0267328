"""The note encoder: unit length, one reading per distinct note, and the same after a save."""

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from sklearn.feature_extraction.text import HashingVectorizer

from cxr_mm.core.errors import WeightsError
from cxr_mm.data.notes import MASK
from cxr_mm.models.bert import is_plain_bert, load_bert
from cxr_mm.models.note_encoder import TOKENS, NoteEncoder, packaged_note_encoder


@pytest.fixture(scope="module")
def encoder():
    return NoteEncoder.open("packaged", 128)


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
    again = NoteEncoder.open(str(tmp_path), 128)
    assert np.array_equal(again.embed(["no fever"]), encoder.embed(["no fever"]))


def test_a_longer_note_is_cut_and_not_refused(encoder):
    assert np.isfinite(encoder.embed(["word " * 3000])).all()


def test_a_name_that_cannot_be_had_says_what_to_do(tmp_path):
    with pytest.raises(WeightsError, match=r"embed\.note_encoder"):
        NoteEncoder.open(str(tmp_path), 128)


def test_the_transformer_gives_what_transformers_gives_to_the_bit():
    from transformers import AutoModel, AutoTokenizer

    folder = packaged_note_encoder()
    assert is_plain_bert(folder)
    notes = ["Fever and productive cough for 3 days.", "", "no effusion " * 160]
    tokens = AutoTokenizer.from_pretrained(folder)(
        notes, padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
    )
    theirs = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    ids, mask = tokens["input_ids"], tokens["attention_mask"]
    own_ids, own_mask = NoteEncoder.open("packaged", 0).load()[0](notes)
    assert torch.equal(own_ids, ids)
    assert torch.equal(own_mask, mask)
    with torch.inference_mode():
        wanted = theirs(input_ids=ids, attention_mask=mask).last_hidden_state
        found = load_bert(folder)(ids, mask)
    assert torch.equal(found[mask.bool()], wanted[mask.bool()])


KINDS = (
    {"analyzer": "word", "ngram_range": (1, 1)},
    {"analyzer": "word", "ngram_range": (2, 2)},
    {"analyzer": "char_wb", "ngram_range": (4, 4)},
)


@given(st.lists(st.text(), min_size=1, max_size=3))
@example(["Übelkeit, naïve café 12.5", "a b c", "ab  cd\tef\n", ""])
def test_words_are_hashed_as_scikit_learn_hashes_them(notes):
    counted = NoteEncoder("unused", 64)._counted(notes)
    options = {"n_features": 64, "alternate_sign": False, "norm": None}
    wanted = [HashingVectorizer(**options, **kind).transform(notes).toarray() for kind in KINDS]
    wanted = np.log1p(np.concatenate(wanted, axis=1)).astype(np.float32)
    np.testing.assert_array_equal(counted, wanted)
