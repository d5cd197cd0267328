"""SHAP over games whose answers are known, by each of its three ways."""

import numpy as np
import pytest

from cxr_mm.core.errors import CancelledError
from cxr_mm.core.progress import Progress
from cxr_mm.explain.estimators import shapley_values
from cxr_mm.explain.games import balanced, linkage


class Known:
    """A game with a formula."""

    BATCH = 16

    def __init__(self, players, worth, tree=None, watch=None):
        self.names = tuple(f"p{k}" for k in range(players))
        self.worth, self.tree, self.watch = worth, tree, watch or Progress()
        self.expected = self.queries = 0

    def values(self, kept):
        self.queries += len(kept)
        self.watch.step(self.queries, self.expected)
        return self.worth(np.asarray(kept, dtype=float))

    @property
    def base(self):
        return float(self.values(np.zeros((1, len(self.names)), dtype=bool))[0])

    @property
    def output(self):
        return float(self.values(np.ones((1, len(self.names)), dtype=bool))[0])


def tree(players):
    return linkage(balanced(range(players)), players)


@pytest.mark.parametrize(("players", "given"), [(4, False), (20, False), (20, True), (1, False)])
def test_an_additive_game_gives_each_player_its_own(players, given):
    weights = np.random.default_rng(0).normal(size=players)
    game = Known(players, lambda kept: kept @ weights + 3, tree(players) if given else None)
    found = shapley_values(game, seed=0, most=2000)
    np.testing.assert_allclose(found.values, weights, atol=1e-9)
    assert (found.base, found.output) == pytest.approx((3, 3 + weights.sum()))


@pytest.mark.parametrize("players", [3, 13])
def test_an_interaction_is_halved_and_all_adds_up(players):
    game = Known(players, lambda kept: kept[:, 0] * kept[:, 1] + 0.5 * kept[:, 2])
    found = shapley_values(game, seed=0)
    expected = np.zeros(players)
    expected[:3] = 0.5
    exact = players <= 11
    np.testing.assert_allclose(found.values, expected, atol=1e-9 if exact else 0.3)
    assert found.base + found.values.sum() == pytest.approx(found.output, abs=1e-9)


def test_cut_short_down_a_tree_it_still_adds_up():
    game = Known(64, lambda kept: kept @ np.arange(64.0) ** 2, tree(64))
    found = shapley_values(game, seed=0, most=20)
    assert game.queries < 40
    assert found.base + found.values.sum() == pytest.approx(found.output)


def test_same_seed_same_answer():
    def make():
        return Known(15, lambda kept: kept[:, 0] * kept[:, 1] * kept[:, 2] + kept[:, 5])

    one, again = (shapley_values(make(), seed=3).values for _ in range(2))
    np.testing.assert_array_equal(one, again)


def test_it_can_be_stopped():
    requested = []
    progress = Progress(
        callback=lambda done, _: requested.append(done), cancelled=lambda: len(requested) >= 3
    )
    game = Known(20, lambda kept: kept.sum(1), tree(20), progress)
    with pytest.raises(CancelledError):
        shapley_values(game, seed=0, most=500)
    assert len(requested) == 3
