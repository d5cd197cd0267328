"""LIME (Ribeiro et al. 2016) through lime: a linear model of a game around the whole coalition."""

from dataclasses import dataclass

import numpy as np
from lime.lime_base import LimeBase
from numpy.typing import NDArray
from sklearn.linear_model import Ridge

from cxr_mm.explain.games.base import Game

KERNEL_WIDTH = 0.25
"""Of lime's own image and (scaled) text explainers, in cosine distance."""
READABLE = 0.5
"""R² below which the linear model says too little of the real one to be read."""


@dataclass(frozen=True)
class LimeFit:
    """Weights (n,) of the players, and how well the linear model foretells the game nearby."""

    intercept: float
    weights: NDArray[np.float64]
    r2: float


def lime_fit(game: Game, samples: int, seed: int) -> LimeFit:
    """Fit the game by a weighted ridge regression.

    Args:
        game: the players and what they are worth together.
        samples: coalitions drawn, each player in with even chance.
        seed: of the draw.
    """
    rng = np.random.default_rng(seed)
    kept = rng.integers(0, 2, (samples, len(game.names))).astype(bool)
    kept[0] = True
    game.expected = samples
    values = game.values(kept)
    # Cosine distance to the whole: 1 - sqrt(share kept).
    distances = 1 - np.sqrt(kept.mean(axis=1))
    intercept, found, r2, _ = LimeBase(_kernel).explain_instance_with_data(
        kept.astype(float),
        values[:, None],
        distances,
        0,
        kept.shape[1],
        feature_selection="none",
        model_regressor=Ridge(alpha=1.0, random_state=seed),
    )
    weights = np.zeros(kept.shape[1])
    for player, weight in found:
        weights[player] = weight
    return LimeFit(float(intercept), weights, float(r2))


def _kernel(distances: NDArray[np.float64]) -> NDArray[np.float64]:
    weights: NDArray[np.float64] = np.sqrt(np.exp(-(distances**2) / KERNEL_WIDTH**2))
    return weights
