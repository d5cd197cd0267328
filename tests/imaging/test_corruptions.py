"""Common corruptions: each kind does what it is called, more so at each level."""

import numpy as np
import pytest

from cxr_mm.imaging.corruptions import CORRUPTIONS, LEVELS, corrupt
from cxr_mm.imaging.geometry import fit_square, image_area, shrink
from cxr_mm.imaging.quality import image_quality

SIDE = 224
TOLERANCE = 1.5 / 255


@pytest.fixture(scope="module")
def image():
    """Wider than high, with stripes of four pixels on a slope, and no black but the bars."""
    across = np.linspace(0, 1, 240, dtype=np.float32)
    down = np.linspace(0, 1, 180, dtype=np.float32)[:, None]
    stripes = 0.1 * np.sign(np.sin(np.arange(240) * np.pi / 2 + 0.1)).astype(np.float32)
    return fit_square(0.25 + 0.2 * across + 0.2 * down + stripes, SIDE)


def grey(square):
    return square[image_area(square)].astype(np.float32) / 255


def corrupted(image, kind, level, seed=0):
    return corrupt(image, kind, level, np.random.default_rng(seed))


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_a_copy_is_a_square_that_comes_again_with_the_seed(image, kind):
    before = image.copy()
    copy = corrupted(image, kind, 3)
    assert (copy.shape, copy.dtype) == ((SIDE, SIDE), np.uint8)
    assert not np.array_equal(copy, image)
    np.testing.assert_array_equal(copy, corrupted(image, kind, 3))
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize("kind", ["blur", "noise", "jpeg", "gamma", "exposure"])
def test_the_change_grows_with_the_level(image, kind):
    changes = [
        np.abs(corrupted(image, kind, level) - image.astype(float)).mean() for level in LEVELS
    ]
    assert changes == sorted(changes)


@pytest.mark.parametrize("level", LEVELS)
def test_resolution_gives_what_the_pipeline_makes_of_a_small_file(image, level):
    side = (160, 128, 96, 80, 64)[level - 1]
    small_file = shrink(grey(image), side)
    assert max(small_file.shape) == side
    difference = corrupted(image, "resolution", level).astype(int) - fit_square(small_file, SIDE)
    assert np.abs(difference).max() <= 1


def test_noise_and_blur_are_measured_as_such(image):
    plain = fit_square(np.full((200, 200), 0.5, np.float32), SIDE)
    assert grey(corrupted(plain, "noise", 2)).std() == pytest.approx(0.08, rel=0.03)
    sharpness = [image_quality(grey(s))["sharpness"] for s in (image, corrupted(image, "blur", 5))]
    assert sharpness[1] < 0.2 * sharpness[0]


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("gamma", lambda x: (x**1.3, x**0.7)),
        ("exposure", lambda x: (1.3 * x, 0.7 * x)),
        ("contrast", lambda x: tuple(x.mean() + f * (x - x.mean()) for f in (1.3, 0.7))),
    ],
)
def test_grey_levels_change_by_their_formula_to_either_side(image, kind, expected):
    sides = expected(grey(image))
    found = set()
    for seed in range(8):
        copy = grey(corrupted(image, kind, 3, seed))
        distance = [np.abs(copy - side.clip(0, 1)).max() for side in sides]
        assert min(distance) < TOLERANCE
        found.add(int(np.argmin(distance)))
    assert found == {0, 1}


def test_a_crop_shows_less_of_the_slope_and_a_border_leaves_it_smaller(image):
    cut = corrupted(image, "crop", 5)
    assert image_area(cut) == image_area(image)
    assert np.ptp(grey(cut)[:, 0]) == pytest.approx(0.75 * np.ptp(grey(image)[:, 0]), abs=0.03)
    framed = [grey(corrupted(image, "border", 4, seed)) for seed in range(8)]
    assert {round(float(f[0, 0])) for f in framed if f.shape == framed[0].shape} <= {0, 1}
    white = next(f for f in framed if f[0, 0] == 1)
    assert (white[:, : int(0.12 / 1.24 * white.shape[1])] == 1).all()


def test_rotation_turns_and_letters_touch_little(image):
    turned = corrupted(image, "rotation", 5)
    corners = grey(turned)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners == 0).all()
    for level in LEVELS:
        touched = corrupted(image, "letters", level) != image
        assert 0 < touched.mean() < 0.02 * level + 0.02
