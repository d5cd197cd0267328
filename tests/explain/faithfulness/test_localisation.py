"""Localisation: known maps give known figures."""

import numpy as np
import pytest

from cxr_mm.explain.faithfulness.metrics import localise


@pytest.fixture
def mask():
    mask = np.zeros((20, 20), dtype=bool)
    mask[4:8, 10:15] = True
    return mask


def test_a_perfect_map(mask):
    figures = localise(mask.astype(np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (1.0, 1.0, 1.0)


def test_a_map_of_the_opposite(mask):
    figures = localise((~mask).astype(np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (0.0, 0.0, 0.0)


def test_an_empty_map_earns_nothing(mask):
    figures = localise(np.zeros((20, 20), dtype=np.float32), mask)
    assert (figures.energy, figures.pointing, figures.iou) == (0.0, 0.0, 0.0)


def test_chance_is_what_random_maps_give(mask):
    rng = np.random.default_rng(0)
    drawn = [localise(rng.random((20, 20), dtype=np.float32), mask) for _ in range(800)]
    assert np.mean([d.energy for d in drawn]) == pytest.approx(drawn[0].chance_energy, rel=0.03)
    assert np.mean([d.pointing for d in drawn]) == pytest.approx(0.05, abs=0.025)
    assert np.mean([d.iou for d in drawn]) == pytest.approx(drawn[0].chance_iou, rel=0.2)


def test_unlike_shapes_and_empty_masks_are_refused(mask):
    with pytest.raises(ValueError, match="shape"):
        localise(np.ones((5, 5), dtype=np.float32), mask)
    with pytest.raises(ValueError, match="empty"):
        localise(np.ones((20, 20), dtype=np.float32), np.zeros_like(mask))
