"""Film: the way back from the square mirrors `fit_square` exactly."""

import numpy as np
import pytest

from cxr_mm.data.transform import fit_square
from cxr_mm.explain.film import content_box, mask_to_square, shrunk, to_film

SHAPES = [(200, 100), (101, 333), (64, 64), (1, 500), (777, 776)]


@pytest.mark.parametrize("shape", SHAPES)
def test_content_box_is_where_fit_square_puts_the_film(shape):
    square = fit_square(np.ones(shape, dtype=np.float32), 64)
    box = np.zeros((64, 64), dtype=bool)
    box[content_box(shape, 64)] = True
    np.testing.assert_array_equal(square > 0, box)


def test_a_spot_comes_back_to_where_it_was_on_the_film():
    film = np.zeros((300, 150), dtype=np.float32)
    film[210:230, 30:50] = 1
    back = to_film(fit_square(film, 96).astype(np.float32) / 255, film.shape)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert back.shape == film.shape
    assert 205 <= row <= 235
    assert 25 <= column <= 55


def test_a_mask_keeps_its_share_of_the_film():
    mask = np.zeros((200, 100), dtype=bool)
    mask[:100] = True
    square = mask_to_square(mask, 50)
    assert square.sum() == pytest.approx(25 * 25, abs=25)
    assert not square[25:].any()


def test_shrunk_keeps_aspect_and_never_enlarges():
    film = np.random.default_rng(0).random((400, 100), dtype=np.float32)
    assert shrunk(film, 200).shape == (200, 50)
    assert shrunk(film, 1000) is film
