"""Tree: nested groups of parts as the linkage that shap's partition explainer walks down
(Owen 1977: values of a game whose players come in unions)."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Nested = int | tuple["Nested", "Nested"]


def balanced(parts: Sequence[Nested]) -> Nested:
    """Neighbours in pairs, pairs in pairs, until one is left; not empty."""
    if len(parts) == 1:
        return parts[0]
    half = len(parts) // 2
    return balanced(parts[:half]), balanced(parts[half:])


def bisected(places: NDArray[np.float64]) -> Nested:
    """Parts at places (n, 2) halved across the longer side of what they cover, again and again."""

    def halve(parts: NDArray[np.intp]) -> Nested:
        if len(parts) == 1:
            return int(parts[0])
        own = places[parts]
        axis = int(np.ptp(own, axis=0).argmax())
        order = parts[np.lexsort((own[:, 1 - axis], own[:, axis]))]
        half = len(order) // 2
        return halve(order[:half]), halve(order[half:])

    return halve(np.arange(len(places)))


def linkage(tree: Nested, leaves: int) -> NDArray[np.float64]:
    """Rows [left, right, height, size], children before parents, as scipy has hierarchies."""
    rows: list[list[float]] = []

    def visit(node: Nested) -> tuple[int, int, int]:
        if isinstance(node, int):
            return node, 0, 1
        (left, low, few), (right, high, many) = visit(node[0]), visit(node[1])
        height = max(low, high) + 1
        rows.append([left, right, height, few + many])
        return leaves + len(rows) - 1, height, few + many

    visit(tree)
    return np.array(rows, dtype=np.float64).reshape(-1, 4)
