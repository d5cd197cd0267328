"""The outline of a mask, in pixels of the source as stored."""

import numpy as np
import pytest

from app.pacs.objects.result import MOST_CORNERS, Region
from cxr_mm.core.errors import InputError


def test_the_outline_is_at_the_edge_of_the_pixels():
    mask = np.zeros((60, 40), bool)
    mask[10:20, 5:15] = True
    corners = np.array(Region.of_mask("x", "m", mask).corners)
    assert corners.min(axis=0).tolist() == [5, 10]
    assert corners.max(axis=0).tolist() == [15, 20]


def test_a_mask_of_everything_ends_at_the_image():
    corners = np.array(Region.of_mask("x", "m", np.ones((60, 40), bool)).corners)
    assert corners.min() == 0
    assert corners.max(axis=0).tolist() == [40, 60]


def test_the_largest_part_is_taken():
    mask = np.zeros((60, 40), bool)
    mask[1:3, 1:3], mask[30:50, 20:35] = True, True
    assert np.array(Region.of_mask("x", "m", mask).corners).min(axis=0).tolist() == [20, 30]


def test_an_empty_mask_has_no_region():
    assert Region.of_mask("x", "m", np.zeros((60, 40), bool)) is None


def test_a_ragged_outline_is_simplified():
    mask = np.zeros((3000, 3000), bool)
    mask[1000:2000, 500:2500] = True
    mask[900:1000, 500:2500:2] = True
    assert len(Region.of_mask("x", "m", mask).corners) <= MOST_CORNERS


def test_an_outline_is_closed_by_its_first_corner():
    region = Region("x", "m", ((0, 0), (4, 0), (0, 4)))
    assert region.closed.tolist() == [[0, 0], [4, 0], [0, 4], [0, 0]]


def test_two_corners_are_no_outline():
    with pytest.raises(InputError, match="at least 3 corners"):
        Region("x", "m", ((0, 0), (1, 1)))
