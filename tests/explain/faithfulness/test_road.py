"""Noisy linear imputation: what is known stays, what is removed continues its surroundings."""

import numpy as np
import torch

from cxr_mm.explain.attribution import Target
from cxr_mm.explain.faithfulness.measure import game_of
from cxr_mm.explain.faithfulness.road import RoadGame, imputed


def test_a_hole_in_a_ramp_is_filled_by_the_ramp_and_nothing_else_moves():
    ramp = torch.linspace(-1, 1, 64).expand(1, 64, 64)
    known = torch.ones(64, 64, dtype=torch.bool)
    known[16:32, 24:40] = False
    found = imputed(ramp, known)
    assert torch.equal(found[:, known], ramp[:, known])
    assert (found - ramp).abs().max() < 0.1
    assert torch.equal(found, imputed(ramp, known))


def test_removing_by_imputation_is_another_game_on_the_same_study(subject):
    target = Target("effusion")
    game = game_of(subject, target, "image")
    other = RoadGame(subject, target, game.regions)
    stored = np.random.default_rng(0).random((2, game.count)) < 0.5
    assert not np.allclose(game.values(stored), other.values(stored))
    assert np.array_equal(other.values(stored), other.values(stored))
