"""Modalities and their subsets, in the one order that every tensor, table and report uses."""

from collections.abc import Iterable
from itertools import combinations
from typing import Literal

Modality = Literal["image", "tabular", "note"]
MODALITIES: tuple[Modality, ...] = ("image", "tabular", "note")


def subset_name(modalities: Iterable[Modality]) -> str:
    """Name a subset in canonical order, as `image+note`."""
    chosen = set(modalities)
    return "+".join(m for m in MODALITIES if m in chosen)


def subsets(modalities: Iterable[Modality]) -> list[tuple[Modality, ...]]:
    """Every non-empty subset, singles first, the whole last, each in canonical order."""
    present = [m for m in MODALITIES if m in set(modalities)]
    return [c for size in range(1, len(present) + 1) for c in combinations(present, size)]
