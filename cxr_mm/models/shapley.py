"""Exact Shapley values (Shapley 1953) of few players, whose every coalition has been asked."""

from itertools import combinations
from math import factorial

import numpy as np
from numpy.typing import NDArray


def coalitions(players: int) -> NDArray[np.bool_]:
    """Every coalition of the players, (2^m, m); row k holds the bits of k, so row 0 is empty."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def shapley(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact Shapley values.

    Args:
        values: (2^m, …), the value of each coalition in the order of `coalitions`.

    Returns:
        (m, …); their sum over m is `values[-1] - values[0]`.
    """
    players = values.shape[0].bit_length() - 1
    shares = np.zeros((players, *values.shape[1:]))
    for player in range(players):
        others = [p for p in range(players) if p != player]
        for size in range(players):
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            for members in combinations(others, size):
                without = sum(1 << p for p in members)
                shares[player] += weight * (values[without | 1 << player] - values[without])
    return shares
