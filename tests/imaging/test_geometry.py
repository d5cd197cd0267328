"""Image: the way back from the square mirrors `fit_square` exactly."""

import numpy as np
import pytest

from cxr_mm.imaging.geometry import (
    content_box,
    fit_square,
    mask_to_square,
    shrink_radiograph,
    to_image,
)

SHAPES = [(200, 100), (101, 333), (64, 64), (1, 500), (777, 776)]


@pytest.mark.parametrize("shape", SHAPES)
def test_content_box_is_where_fit_square_puts_the_image(shape):
    square = fit_square(np.ones(shape, dtype=np.float32), 64)
    box = np.zeros((64, 64), dtype=bool)
    box[content_box(shape, 64)] = True
    np.testing.assert_array_equal(square > 0, box)


def test_a_spot_comes_back_to_where_it_was_on_the_image():
    image = np.zeros((300, 150), dtype=np.float32)
    image[210:230, 30:50] = 1
    back = to_image(fit_square(image, 96).astype(np.float32) / 255, image.shape)
    row, column = np.unravel_index(back.argmax(), back.shape)
    assert back.shape == image.shape
    assert 205 <= row <= 235
    assert 25 <= column <= 55


def test_a_mask_keeps_its_share_of_the_image():
    mask = np.zeros((200, 100), dtype=bool)
    mask[:100] = True
    square = mask_to_square(mask, 50)
    assert square.sum() == pytest.approx(25 * 25, abs=25)
    assert not square[25:].any()


def test_shrink_radiograph_keeps_aspect_and_never_enlarges():
    image = np.random.default_rng(0).random((400, 100), dtype=np.float32)
    assert shrink_radiograph(image, 200).shape == (200, 50)
    assert shrink_radiograph(image, 1000) is image
