"""The base of every contract: frozen, and a field it does not know is an error."""

from collections.abc import Iterable
from itertools import combinations
from typing import Literal

from pydantic import BaseModel, ConfigDict


class Frozen(BaseModel):
    """A value that cannot change after it was checked."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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


SPOKEN = {
    "a": "years",
    "d": "days",
    "h": "hours",
    "Cel": "°C",
    "10*9/L": "×10⁹/L",
    "10*12/L": "×10¹²/L",
    "/min": "per minute",
    "mm[Hg]": "mmHg",
    "umol/L": "µmol/L",
}


def spoken(unit: str) -> str:
    """A unit behind a number, with the space between; empty where there is none."""
    return f" {SPOKEN.get(unit, unit)}" if unit else ""
