"""Out-of-distribution copies: each does what it is called, and is a square again."""

import numpy as np
import pytest

from cxr_mm.imaging.geometry import fit_square, image_area
from cxr_mm.imaging.ood_images import CROPPED, OOD_COPIES, synthetic_pictures

SIDE = 48


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def image():
    """Wider than high, so with bars above and below; brighter downwards."""
    ramp = np.linspace(0.2, 0.9, 60, dtype=np.float32)[:, None]
    return fit_square(np.repeat(ramp, 80, axis=1), SIDE)


def test_the_image_is_found_between_its_bars(image):
    down, across = image_area(image)
    assert (across.start, across.stop) == (0, SIDE)
    assert (down.stop - down.start) == round(SIDE * 60 / 80)
    assert image[down].all()
    assert not image[: down.start].any()


def test_a_black_square_is_image_all_over():
    assert image_area(np.zeros((SIDE, SIDE), np.uint8)) == (slice(0, SIDE), slice(0, SIDE))


@pytest.mark.parametrize("kind", OOD_COPIES)
def test_every_kind_gives_another_square(kind, image, random):
    before = image.copy()
    copy = OOD_COPIES[kind](image, random)
    assert (copy.shape, copy.dtype) == ((SIDE, SIDE), np.uint8)
    assert not np.array_equal(copy, image)
    np.testing.assert_array_equal(image, before)


def test_inverted_twice_is_the_image_and_bars_are_black_or_white(image, random):
    """A viewer pads an inverted image in black; a file that has its own bars inverts them too."""
    above, bars = image_area(image)[0].start, set()
    for _ in range(16):
        once = OOD_COPIES["inverted"](image, random)
        inside = image_area(image)
        np.testing.assert_array_equal(255 - once[inside], image[inside])
        bars.add((once[:above].min(), once[:above].max()))
    assert bars == {(0, 0), (255, 255)}


def test_upside_down_has_the_bright_end_above(image, random):
    for _ in range(8):
        copy = OOD_COPIES["upside_down"](image, random)
        column = copy[image_area(copy)[0], SIDE // 2].astype(int)
        assert (np.diff(column) <= 0).all()


def test_sideways_turns_the_bars_to_either_side(image, random):
    copies = [OOD_COPIES["sideways"](image, random) for _ in range(12)]
    assert all(image_area(copy)[0] == slice(0, SIDE) for copy in copies)
    assert {bool(copy[SIDE // 2, 8] < copy[SIDE // 2, -8]) for copy in copies} == {True, False}


def test_cropped_shows_a_narrow_range_of_the_ramp(image, random):
    whole = np.ptp(image[image_area(image)].astype(float))
    for _ in range(8):
        copy = OOD_COPIES["cropped"](image, random)
        part = np.ptp(copy[image_area(copy)].astype(float))
        assert part <= (CROPPED[1] + 0.05) * whole


def test_scrambled_keeps_the_greys_and_loses_their_order(image, random):
    copy = OOD_COPIES["scrambled"](image, random)
    assert copy[image_area(copy)].mean() == pytest.approx(image[image_area(image)].mean(), abs=3)
    column = copy[image_area(copy)[0], SIDE // 2].astype(int)
    assert (np.diff(column) < -20).any()


def test_made_up_pictures_vary_and_come_again_with_the_seed():
    pictures = synthetic_pictures(8, SIDE, np.random.default_rng(3))
    assert (pictures.shape, pictures.dtype) == ((8, SIDE, SIDE), np.uint8)
    assert len({picture.tobytes() for picture in pictures}) == 8
    again = synthetic_pictures(8, SIDE, np.random.default_rng(3))
    np.testing.assert_array_equal(pictures, again)
