"""Ranking: deletion and insertion (Petsiuk et al. 2018, RISE), sparsity, agreement of two rankings.

Deletion: does the logit fall faster when the parts that an attribution ranks first are taken out
than when parts are taken out at random? Insertion: does it rise faster as they are put back?
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from cxr_mm.explain.games.base import Game, Kept

STEPS = 5
RANDOM_ORDERS = 3
Scores = NDArray[np.float64]


def deletion_and_insertion(game: Game, scores: Scores, seed: int) -> dict[str, float]:
    """Area between an attribution's order and random order, in logits.

    Args:
        game: whose parts are taken out and put back.
        scores: (n,) what the attribution gives each.
        seed: of the random orders, which are the same for every method of a game.

    Returns:
        `deletion` and `insertion`, above 0 where the attribution finds what matters, 0 by chance.
    """
    rng = np.random.default_rng(seed)
    players = len(scores)
    random = [rng.permutation(players) for _ in range(RANDOM_ORDERS)]
    ties = rng.random(players)
    ranked = np.lexsort((ties, -scores))
    orders = [ranked, *random]
    kept = np.concatenate([_first(order) for order in orders])
    found = game.values(np.concatenate([kept, ~kept])).reshape(2, len(orders), -1).mean(axis=2)
    insertion, deletion = found
    return {
        "deletion": float(deletion[1:].mean() - deletion[0]),
        "insertion": float(insertion[0] - insertion[1:].mean()),
    }


def _first(order: NDArray[np.intp]) -> Kept:
    """Coalitions (STEPS, n) of ever more of the first players of an order."""
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    shares = (np.arange(STEPS) + 1) / (STEPS + 1)
    counts = np.ceil(shares * len(order)).clip(1, max(1, len(order) - 1))
    return rank[None, :] < counts[:, None]


def gini(scores: Scores) -> float:
    """Sparsity as the Gini index of absolute values (Chalasani et al. 2020): 0 all alike, 1 one."""
    sizes = np.sort(np.abs(scores))
    total = float(sizes.sum())
    if total <= 0:
        return 0.0
    count = len(sizes)
    weights = 2 * np.arange(1, count + 1) - count - 1
    return float((weights * sizes).sum() / (count * total))


def agreement(one: Scores, other: Scores) -> float | None:
    """Spearman's rank correlation of two attributions of the same parts; None where one is flat."""
    if len(one) < 2 or np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    found: Any = spearmanr(one, other)
    return float(found.statistic)
