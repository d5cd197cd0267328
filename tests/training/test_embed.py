"""Embeddings: one row a study, zero where it has no image or note."""

import logging

import numpy as np
import pandas as pd
import pytest
import torch

from cxr_mm.core.errors import StageError
from cxr_mm.core.task import NoteSpec
from cxr_mm.data.embeddings import load_copies, load_embeddings
from cxr_mm.models.fusion import Part
from cxr_mm.models.image_encoder import build_image_encoder, save_image_encoder
from cxr_mm.training import embed as stage
from cxr_mm.training.embed import embed

NOTES = {3: "fever and cough", 7: "no complaints", 8: "fever and cough"}


class LengthEncoder:
    """Stands for a note encoder: an embedding of the note's length and its first letter."""

    dim = 2
    parts = (Part(length=2),)

    @classmethod
    def open(cls, name, words):
        return cls()

    def embed(self, notes, batch_size):
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


def write_notes(paths, notes):
    frame = pd.read_parquet(paths.manifest)
    frame["note"] = pd.Series(notes, dtype=object).reindex(range(len(frame)))
    frame.to_parquet(paths.manifest)


def note_task(spot_task, **changes):
    return spot_task(note=NoteSpec(**changes), has_image=False)


def test_rows_are_those_of_the_manifest_and_zero_without_an_image(
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


def test_the_language_of_the_note_encoder_is_said_before_notes_are_read(
    spots, spot_task, spot_params, length_encoder, caplog
):
    write_notes(spots, NOTES)
    with caplog.at_level(logging.INFO):
        embed(note_task(spot_task), spot_params(), spots)
    assert "all-MiniLM-L6-v2, trained on English" in caplog.text


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


def test_copies_are_of_the_same_images_and_differ_from_each_other(
    encoded, encoder, spot_task, spot_params
):
    params = spot_params()
    embed(spot_task(), params, encoded)
    assert load_copies(encoded) is None
    clean = load_embeddings(encoded)["image"]
    with_copies = params.model_copy(update={"embed": params.embed.model_copy(update={"copies": 2})})
    embed(spot_task(), with_copies, encoded)
    np.testing.assert_array_equal(load_embeddings(encoded)["image"], clean)
    copies = load_copies(encoded)
    assert copies.shape == (2, *clean.shape)
    assert (copies[:, -1] == 0).all()
    assert (copies[0, :-1] != copies[1, :-1]).any(axis=1).mean() > 0.9
    # A copy is nearer to its own image than to most others.
    distance = np.linalg.norm(copies[0, :-1, None] - clean[None, :-1], axis=-1)
    rank = (distance < np.diag(distance)[:, None]).mean(axis=1)
    assert np.median(rank) < 0.2
