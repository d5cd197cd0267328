"""Embeddings: one row a study; of training rows from an encoder that has not seen them."""

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mm.core.errors import StageError
from cxr_mm.core.task import NoteSpec
from cxr_mm.data.embeddings import load_embeddings
from cxr_mm.models.fusion import Part
from cxr_mm.models.image_encoder import build_image_encoder, save_image_encoder
from cxr_mm.training import embed as image_embeddings
from cxr_mm.training import embed as stage
from cxr_mm.training.embed import align, embed

NOTES = {3: "fever and cough", 7: "no complaints", 8: "fever and cough"}


class LengthEncoder:
    """Stands for a note encoder: an embedding of the note's length and its first letter."""

    dim = 2
    parts = (Part(length=2),)
    read = 0

    @classmethod
    def open(cls, name, tokens, words):
        return cls()

    def embed(self, notes, batch_size):
        LengthEncoder.read += len(notes)
        return np.array([[len(n), ord(n[0])] for n in notes], dtype=np.float32)


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return build_image_encoder("small_cnn", 32, 1, 0.0, "none").eval()


@pytest.fixture
def encoded(spots, encoder):
    """Paths of the spot task after `train_image`."""
    save_image_encoder(encoder, spots.image_encoder)
    return spots


@pytest.fixture
def length_encoder(monkeypatch):
    monkeypatch.setattr(stage, "NoteEncoder", LengthEncoder)
    monkeypatch.setattr(LengthEncoder, "read", 0)
    return LengthEncoder


def write_notes(paths, notes):
    frame = pd.read_parquet(paths.manifest)
    frame["note"] = pd.Series(notes, dtype=object).reindex(range(len(frame)))
    frame.to_parquet(paths.manifest)


def note_task(spot_task, **changes):
    return spot_task(note=NoteSpec(**changes), has_image=False)


def test_align_finds_the_map_between_two_spaces():
    rng = np.random.default_rng(0)
    source = rng.normal(3, 1, (400, 6)).astype(np.float32)
    mapping, shift = rng.normal(size=(6, 5)), rng.normal(size=5)
    target = (source @ mapping + shift).astype(np.float32)
    aligned = align(source[:300], target[:300], source[300:])
    assert aligned.dtype == np.float32
    assert np.abs(aligned - target[300:]).max() < 0.03 * target.std()


def test_align_says_the_mean_where_the_source_says_nothing():
    target = np.random.default_rng(0).normal(2, 1, (50, 3)).astype(np.float32)
    aligned = align(np.ones((50, 4), np.float32), target, np.ones((2, 4), np.float32))
    np.testing.assert_allclose(aligned, np.tile(target.mean(0), (2, 1)), atol=1e-5)


def test_rows_are_those_of_the_manifest_and_zero_without_a_image(
    encoded, encoder, spot_task, spot_params
):
    embed(spot_task(), spot_params(), encoded)
    rows = load_embeddings(encoded)["image"]
    assert rows.shape == (120, encoder.dim)
    assert (rows[:-1] != 0).any(axis=1).all()
    assert (rows[-1] == 0).all()
    # Manifest rows in another order take their embeddings along.
    frame = pd.read_parquet(encoded.manifest)
    frame.iloc[::-1].reset_index(drop=True).to_parquet(encoded.manifest)
    embed(spot_task(), spot_params(), encoded)
    np.testing.assert_array_equal(load_embeddings(encoded)["image"], rows[::-1])


@pytest.mark.parametrize("blind", [0, 1])
def test_training_rows_come_from_the_encoder_that_has_not_seen_them(
    encoded, encoder, spot_task, spot_params, blind
):
    embed(spot_task(), spot_params(), encoded)
    own = load_embeddings(encoded)["image"]
    fold = np.arange(80) % 2
    study = [f"s{n}" for n in range(80)]
    table = pd.DataFrame({"study_id": study, "fold": fold})
    table.to_parquet(encoded.image_encoder / "folds.parquet")
    save_image_encoder(encoder, encoded.image_encoder / f"fold_{1 - blind}")
    for tensor in encoder.state_dict().values():
        tensor.zero_()  # an encoder that says the same of every image
    save_image_encoder(encoder, encoded.image_encoder / f"fold_{blind}")
    embed(spot_task(), spot_params(), encoded)
    crossed = load_embeddings(encoded)["image"]
    np.testing.assert_array_equal(crossed[80:], own[80:])
    its_rows, others = np.flatnonzero(fold == blind), np.flatnonzero(fold != blind)
    mean = own[others].mean(0)
    np.testing.assert_allclose(crossed[its_rows], np.tile(mean, (40, 1)), atol=1e-4)
    # The other encoder is the final one, so that its rows come back but for the ridge.
    away = np.abs(crossed[others] - own[others]).mean()
    assert 0 < away < 0.75 * np.abs(own[others] - own[others].mean(0)).mean()


def test_images_are_read_once_as_long_as_images_and_encoder_stay(
    encoded, encoder, spot_task, spot_params, monkeypatch
):
    reads = []
    real = image_embeddings.open_pixels
    monkeypatch.setattr(
        image_embeddings, "open_pixels", lambda path: reads.append(path) or real(path)
    )
    embed(spot_task(), spot_params(), encoded)
    first = load_embeddings(encoded)["image"]
    with torch.no_grad():
        encoder.head.bias += 1  # the head has no part in an embedding
    save_image_encoder(encoder, encoded.image_encoder)
    embed(spot_task(), spot_params(), encoded)
    np.testing.assert_array_equal(load_embeddings(encoded)["image"], first)
    assert len(reads) == 1
    pixels = np.load(encoded.pixels)
    pixels[4] = 255 - pixels[4]
    np.save(encoded.pixels, pixels)
    embed(spot_task(), spot_params(), encoded)
    changed = (load_embeddings(encoded)["image"] != first).any(axis=1)
    assert len(reads) == 2
    assert changed[4]


def test_notes_are_masked_and_rows_without_one_are_zero(
    spots, spot_task, spot_params, length_encoder
):
    write_notes(spots, NOTES)
    embed(note_task(spot_task, mask=("cough",)), spot_params(), spots)
    rows = load_embeddings(spots)["note"]
    assert set(load_embeddings(spots)) == {"note"}
    assert rows.shape == (120, 2)
    assert rows[3].tolist() == [len("fever and [MASK]"), ord("f")]
    assert rows[7].tolist() == [len("no complaints"), ord("n")]
    assert np.flatnonzero(rows.any(axis=1)).tolist() == list(NOTES)


def test_notes_are_embedded_once_as_long_as_they_stay(
    spots, spot_task, spot_params, length_encoder
):
    write_notes(spots, NOTES)
    embed(note_task(spot_task), spot_params(), spots)
    embed(note_task(spot_task), spot_params(), spots)
    assert length_encoder.read == len(NOTES)
    write_notes(spots, {**NOTES, 7: "night sweats"})
    embed(note_task(spot_task), spot_params(), spots)
    assert load_embeddings(spots)["note"][7].tolist() == [len("night sweats"), ord("n")]


def test_the_same_notes_of_other_studies_stay_with_those(
    spots, spot_task, spot_params, length_encoder
):
    write_notes(spots, NOTES)
    embed(note_task(spot_task), spot_params(), spots)
    moved = {row + 20: note for row, note in NOTES.items()}
    write_notes(spots, moved)
    embed(note_task(spot_task), spot_params(), spots)
    rows = load_embeddings(spots)["note"]
    assert np.flatnonzero(rows.any(axis=1)).tolist() == list(moved)


def test_before_the_stage_has_run_it_says_what_to_run(spots):
    with pytest.raises(StageError, match="Run dvc repro embed@spot"):
        load_embeddings(spots)
