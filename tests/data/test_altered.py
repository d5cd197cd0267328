"""Altered films: each kind does what it is called, and leaves a square of the same kind."""

import numpy as np
import pytest

from cxr_mm.data.altered import ALTERATIONS, CROPPED, film_area, made_up_pictures
from cxr_mm.data.transform import fit_square

SIDE = 48


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def film():
    """Wider than high, so with bars above and below; brighter downwards."""
    ramp = np.linspace(0.2, 0.9, 60, dtype=np.float32)[:, None]
    return fit_square(np.repeat(ramp, 80, axis=1), SIDE)


def test_the_film_is_found_between_its_bars(film):
    down, across = film_area(film)
    assert (across.start, across.stop) == (0, SIDE)
    assert (down.stop - down.start) == round(SIDE * 60 / 80)
    assert film[down].all()
    assert not film[: down.start].any()


def test_a_black_square_is_film_all_over():
    assert film_area(np.zeros((SIDE, SIDE), np.uint8)) == (slice(0, SIDE), slice(0, SIDE))


@pytest.mark.parametrize("kind", ALTERATIONS)
def test_every_kind_gives_another_square(kind, film, random):
    before = film.copy()
    copy = ALTERATIONS[kind](film, random)
    assert (copy.shape, copy.dtype) == ((SIDE, SIDE), np.uint8)
    assert not np.array_equal(copy, film)
    np.testing.assert_array_equal(film, before)


def test_inverted_twice_is_the_film_and_bars_stay_black(film, random):
    invert = ALTERATIONS["inverted"]
    once = invert(film, random)
    assert once[: film_area(film)[0].start].max() == 0
    np.testing.assert_array_equal(invert(once, random), film)


def test_upside_down_has_the_bright_end_above(film, random):
    for _ in range(8):
        copy = ALTERATIONS["upside_down"](film, random)
        column = copy[film_area(copy)[0], SIDE // 2].astype(int)
        assert (np.diff(column) <= 0).all()


def test_sideways_turns_the_bars_to_either_side(film, random):
    copies = [ALTERATIONS["sideways"](film, random) for _ in range(12)]
    assert all(film_area(copy)[0] == slice(0, SIDE) for copy in copies)
    assert {bool(copy[SIDE // 2, 8] < copy[SIDE // 2, -8]) for copy in copies} == {True, False}


def test_cropped_shows_a_narrow_range_of_the_ramp(film, random):
    whole = np.ptp(film[film_area(film)].astype(float))
    for _ in range(8):
        copy = ALTERATIONS["cropped"](film, random)
        part = np.ptp(copy[film_area(copy)].astype(float))
        assert part <= (CROPPED[1] + 0.05) * whole


def test_scrambled_keeps_the_greys_and_loses_their_order(film, random):
    copy = ALTERATIONS["scrambled"](film, random)
    assert copy[film_area(copy)].mean() == pytest.approx(film[film_area(film)].mean(), abs=3)
    column = copy[film_area(copy)[0], SIDE // 2].astype(int)
    assert (np.diff(column) < -20).any()


def test_made_up_pictures_vary_and_come_again_with_the_seed():
    pictures = made_up_pictures(8, SIDE, np.random.default_rng(3))
    assert (pictures.shape, pictures.dtype) == ((8, SIDE, SIDE), np.uint8)
    assert len({picture.tobytes() for picture in pictures}) == 8
    again = made_up_pictures(8, SIDE, np.random.default_rng(3))
    np.testing.assert_array_equal(pictures, again)
