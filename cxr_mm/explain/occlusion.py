"""Occlusion (Zeiler and Fergus 2014): what the logit loses when one part is taken out."""

import numpy as np
from numpy.typing import NDArray

from cxr_mm.explain.games.base import Game


def occlusion(game: Game) -> NDArray[np.float64]:
    """Logit of the whole less that without each player, (n,)."""
    players = len(game.names)
    game.expected = players
    without: NDArray[np.float64] = game.values(~np.eye(players, dtype=bool))
    return game.output - without
