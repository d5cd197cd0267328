"""LIME (Ribeiro et al. 2016) through lime: a linear model of a game around the whole coalition.

The coalitions are those of Hadamard matrices, each with its complement (Plackett and Burman 1946;
the fold-over of Box and Wilson 1951): players are in and out equally often and independently of
each other, and what two of them do only together does not blur what each does alone.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import hadamard

from cxr_mm.explain.games import Coalitions, Game

KERNEL_WIDTH = 0.25
"""Of lime's own image and (scaled) text explainers, in cosine distance."""
READABLE = 0.5
"""R² below which the linear model approximates the real one too poorly to be interpreted."""
RIDGE = 1.0
"""Penalty, as lime has it."""


@dataclass(frozen=True)
class LimeFit:
    """Weights (n,) of the players, and how well the linear model predicts the game nearby.

    `r2` is of coalitions each left out of the fit in turn (PRESS: Allen 1974), at most 1.
    """

    intercept: float
    weights: NDArray[np.float64]
    r2: float


def lime_fit(game: Game, samples: int, seed: int) -> LimeFit:
    """Fit the game by a weighted ridge regression.

    Args:
        game: the players and what they are worth together.
        samples: coalitions evaluated, each player in every second one.
        seed: of the sample.
    """
    from lime.lime_base import LimeBase
    from sklearn.linear_model import Ridge

    stored = coalitions(samples, len(game.names), seed)
    game.expected = samples
    values = game.values(stored)
    intercept, found, _, _ = LimeBase(_kernel).explain_instance_with_data(
        stored.astype(float),
        values[:, None],
        _distances(stored),
        0,
        stored.shape[1],
        feature_selection="none",
        model_regressor=Ridge(alpha=RIDGE, random_state=seed),
    )
    weights = np.zeros(stored.shape[1])
    for player, weight in found:
        weights[player] = weight
    r2 = _left_out(stored, values, closeness(stored), intercept + stored @ weights)
    return LimeFit(float(intercept), weights, r2)


def coalitions(samples: int, players: int, seed: int) -> Coalitions:
    """(samples, players): the whole, then complementary pairs out of Hadamard matrices with rows,
    columns and signs sampled anew for each."""
    rng = np.random.default_rng(seed)
    order = 1 << players.bit_length()  # one column more than players: the first is constant
    matrix = hadamard(order)
    parts = [np.ones((1, players), dtype=bool)]
    while sum(map(len, parts)) < samples:
        columns = rng.permutation(np.arange(1, order))[:players]
        half = rng.permutation(matrix)[:, columns] * rng.choice([-1, 1], players) > 0
        parts.append(np.stack([half, ~half], axis=1).reshape(-1, players))
    return np.concatenate(parts)[:samples]


def _left_out(
    stored: Coalitions,
    values: NDArray[np.float64],
    weights: NDArray[np.float64],
    fitted: NDArray[np.float64],
) -> float:
    """Weighted R² of the regression for each coalition when it is left out of the fit."""
    share = weights / weights.sum()
    centred = (stored - share @ stored) * np.sqrt(weights)[:, None]
    inner = centred.T @ centred + RIDGE * np.eye(stored.shape[1])
    leverage = share + (centred * np.linalg.solve(inner, centred.T).T).sum(axis=1)
    residuals = (values - fitted) / (1 - leverage)
    spread = values - share @ values
    total = float(share @ spread**2)
    return float(1 - share @ residuals**2 / total) if total else 1.0


def closeness(stored: Coalitions) -> NDArray[np.float64]:
    """How much each coalition counts in the fit (K,)."""
    return _kernel(_distances(stored))


def _distances(stored: Coalitions) -> NDArray[np.float64]:
    """Cosine distance to the whole."""
    found: NDArray[np.float64] = 1 - np.sqrt(stored.mean(axis=1))
    return found


def _kernel(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.sqrt(np.exp(-(distances**2) / KERNEL_WIDTH**2))
    return weights


def occlusion(game: Game) -> NDArray[np.float64]:
    """Logit of the whole less that without each player, (n,)."""
    players = len(game.names)
    game.expected = players
    without: NDArray[np.float64] = game.values(~np.eye(players, dtype=bool))
    return game.output - without


FEW = 11
"""Players up to which all coalitions are evaluated: 2,048."""
PERMUTATIONS = 10


@dataclass(frozen=True)
class ShapleyValues:
    """Shapley value of each player: `base + values.sum() == output`."""

    base: float
    values: NDArray[np.float64]
    output: float


def shapley_values(game: Game, seed: int, most: int = 200) -> ShapleyValues:
    """Share the value of all players among them.

    Args:
        game: the players and what they are worth together.
        seed: of the permutations; nothing else is random.
        most: coalitions to evaluate down a tree; what is left is shared evenly within a branch.
    """
    players = len(game.names)
    base, output = game.base, game.output
    if players == 1:
        return ShapleyValues(base, np.array([output - base]), output)
    values = _explained(game, seed, most).values[0]
    return ShapleyValues(base, np.asarray(values, dtype=np.float64), output)


def _explained(game: Game, seed: int, most: int) -> Any:
    import shap

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

    def __call__(self, mask: Coalitions, players: NDArray[np.float64]) -> tuple[NDArray[np.bool_]]:
        del players
        return (np.asarray(mask, dtype=bool)[None],)
