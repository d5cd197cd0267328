"""Shapley values of a game by shap (Lundberg and Lee 2017): exact for few players, by permutations
for many, or down a tree of players (Owen values) where the game has one."""

from dataclasses import dataclass

import numpy as np
import shap
from numpy.typing import NDArray

from cxr_mm.explain.games.base import Game, Kept

FEW = 11
"""Players up to which all coalitions are asked: 2,048."""
PERMUTATIONS = 10


@dataclass(frozen=True)
class Shared:
    """What each player got: `base + values.sum() == output`."""

    base: float
    values: NDArray[np.float64]
    output: float


def shapley_values(game: Game, seed: int, most: int = 200) -> Shared:
    """Share the value of all players among them.

    Args:
        game: the players and what they are worth together.
        seed: of the permutations; nothing else is drawn.
        most: coalitions to ask down a tree; what is left is shared evenly within a branch.
    """
    players = len(game.names)
    base, output = game.base, game.output
    if players == 1:
        return Shared(base, np.array([output - base]), output)
    values = _explained(game, seed, most).values[0]
    return Shared(base, np.asarray(values, dtype=np.float64), output)


def _explained(game: Game, seed: int, most: int) -> shap.Explanation:
    players = np.ones((1, len(game.names)))
    masker = _Players(game)
    if game.tree is not None:
        game.expected = most
        explainer = shap.explainers.Partition(game.values, masker)
        return explainer(players, max_evals=most, batch_size=game.BATCH, silent=True)
    if len(game.names) <= FEW:
        game.expected = 2 ** len(game.names)
        return shap.explainers.Exact(game.values, masker)(players, silent=True)
    game.expected = PERMUTATIONS * 2 * len(game.names) + 1
    explainer = shap.explainers.Permutation(game.values, masker, seed=seed)
    return explainer(players, max_evals=game.expected, batch_size=game.BATCH, silent=True)


class _Players:
    """shap's masker for a game: what is "masked" is the coalition itself."""

    def __init__(self, game: Game) -> None:
        self.shape = (1, len(game.names))
        if game.tree is not None:
            self.clustering = game.tree

    def __call__(self, mask: Kept, players: NDArray[np.float64]) -> tuple[NDArray[np.bool_]]:
        del players
        return (np.asarray(mask, dtype=bool)[None],)
