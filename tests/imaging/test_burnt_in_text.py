"""Burnt-in text: words are found, and side markers are none."""

import numpy as np
import pytest
from PIL import Image, ImageDraw, ImageFont

from cxr_mm.imaging.burnt_in_text import (
    find_words,
    has_text,
    model_square,
    text_mask,
    without_text,
)
from cxr_mm.imaging.geometry import fit_square


def plain(size=400):
    """A smooth image with a bright middle, without any letter."""
    y, x = np.mgrid[-1 : 1 : 1j * size, -1 : 1 : 1j * size]
    return np.exp(-(x**2 + y**2)).astype(np.float32) * np.float32(0.6)


def written(text, at=(0.05, 0.03), *, white=True, size=14, image=None):
    base = plain() if image is None else image
    drawn = Image.fromarray(np.rint(base * 255).astype(np.uint8))
    place = at[0] * drawn.width, at[1] * drawn.height
    font = ImageFont.load_default(size)
    ImageDraw.Draw(drawn).text(place, text, fill=255 if white else 0, font=font)
    return np.asarray(drawn, np.float32) / np.float32(255)


@pytest.mark.parametrize("text", ["PORTABLE", "SUPINE", "2020/01/01", "AP ERECT"])
def test_a_word_near_the_edge_is_found(text):
    assert not has_text(plain())
    assert has_text(written(text))


def test_black_letters_on_light_are_found():
    assert has_text(written("PORTABLE", (0.4, 0.5), white=False))


@pytest.mark.parametrize("text", ["L", "R", "AP"])
def test_a_side_marker_is_no_word(text):
    assert not has_text(written(text, size=24))


def test_two_lines_are_two_words_and_a_large_image_is_the_same():
    two = written("SUPINE", (0.6, 0.9), image=written("PORTABLE"))
    assert {len(word) for word in find_words(two)} == {len("SUPINE"), len("PORTABLE")}
    assert has_text(np.kron(two, np.ones((3, 3), np.float32)))


def test_small_letters_of_a_small_image_and_faint_ones_are_found():
    assert has_text(written("PORTABLE", size=9, image=plain(250)))
    assert has_text(plain() + (written("PORTABLE") - plain()) * np.float32(0.4))


def test_grains_of_a_tiny_image_are_no_letters():
    grains = np.random.default_rng(0).random((60, 50), np.float32)
    assert not has_text(grains)


@pytest.mark.parametrize("white", [True, False])
def test_a_masked_word_leaves_no_edge_and_nothing_else_is_touched(white):
    clean = plain()
    burnt = written("SUPINE", (0.3, 0.4), white=white)
    masked, where = without_text(burnt), text_mask(burnt)
    assert where[np.abs(burnt - clean) > 0.1].mean() > 0.98
    np.testing.assert_array_equal(masked[~where], burnt[~where])
    assert np.abs(masked - clean).max() < 0.1
    assert not has_text(masked)
    assert masked.dtype == np.float32


def test_the_square_is_of_the_masked_image_only_where_that_is_asked_for():
    burnt = written("PORTABLE")
    np.testing.assert_array_equal(model_square(burnt, 64, mask_text=False), fit_square(burnt, 64))
    np.testing.assert_array_equal(
        model_square(burnt, 64, mask_text=True), fit_square(without_text(burnt), 64)
    )
    marker = written("R", size=24)
    np.testing.assert_array_equal(model_square(marker, 64, mask_text=True), fit_square(marker, 64))
