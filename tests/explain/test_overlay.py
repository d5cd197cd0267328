"""Render: right place, right aspect, and an honest nothing."""

import base64
from io import BytesIO

import numpy as np
from PIL import Image

from cxr_mm.explain.overlay import data_uri, overlay
from cxr_mm.imaging.geometry import grey


def test_overlay_colours_the_place_and_leaves_the_rest_grey():
    image = np.full((200, 100), 0.5, dtype=np.float32)
    values = np.zeros((64, 64), dtype=np.float32)
    values[48:56, 24:32] = 1  # lower left of the image's half-width strip
    drawn = overlay(image, values)
    assert drawn.dtype == np.uint8
    assert drawn.shape[0] == 200
    assert drawn.shape[1] > 100  # the colour bar stands beside the image
    spread = np.ptp(drawn[:, :100].astype(int), axis=2)
    rows, columns = np.nonzero(spread > 40)
    assert 130 < rows.mean() < 190
    assert 10 < columns.mean() < 60
    assert (spread[:100] == 0).all()


def test_an_empty_map_leaves_the_image_as_it_is():
    image = np.random.default_rng(0).random((50, 80), dtype=np.float32)
    drawn = overlay(image, np.zeros((32, 32), dtype=np.float32))
    np.testing.assert_array_equal(drawn[:, :80], grey(image))


def test_the_longer_side_is_bounded():
    image = np.zeros((3000, 2000), dtype=np.float32)
    assert grey(image, 300).shape == (300, 200, 3)


def test_a_data_uri_holds_the_picture():
    pixels = np.random.default_rng(0).integers(0, 255, (9, 7, 3)).astype(np.uint8)
    kind, data = data_uri(pixels).split(",")
    assert kind == "data:image/png;base64"
    np.testing.assert_array_equal(Image.open(BytesIO(base64.b64decode(data))), pixels)
