"""Error budget: one chance of a false approval, spent over all challengers of a frozen test.

A test set that judges one challenger after another lets quality creep down in steps that each pass
(Feng, Emerson and Simon, Biometrics 2021; 77:31). The k-th challenger is therefore judged at the
one-sided level 0.025 · 6 / (π² k²). These levels add up to 0.025 (alpha spending, Tian and Ramdas,
Stat Methods Med Res 2021; 30:976; Bonferroni's inequality), however many challengers there are and
however they depend on one another.
"""

import hashlib
from collections.abc import Iterable, Sequence
from math import pi

from monitoring.retraining.change_record import ChangeRecord

BUDGET = 0.025
"""Customary one-sided level of one non-inferiority trial (ICH E9), here of all challengers."""


def level(attempt: int) -> float:
    """One-sided level of a challenger's comparisons.

    Args:
        attempt: its number among the challengers of a frozen test, from 1.
    """
    return BUDGET * 6 / (pi * attempt) ** 2


def frozen_digest(studies: Iterable[str]) -> str:
    """SHA-256 of the ids of a frozen test's studies, whatever their order."""
    return hashlib.sha256("\n".join(sorted(studies)).encode()).hexdigest()


def attempt_of(records: Sequence[ChangeRecord], frozen: str, champion: str, challenger: str) -> int:
    """Number of a challenger among those ever judged on a frozen test, from 1.

    The same pair of models keeps its number: its limits do not depend on the margins. A record that
    does not name its frozen test counts.

    Args:
        records: change records of the task.
        frozen: digest of the frozen test.
        champion, challenger: digests of the two models.
    """
    ordered = sorted(records, key=lambda record: (record.made_at, record.id))
    pairs = dict.fromkeys(
        (record.champion.digest, record.challenger.digest)
        for record in ordered
        if record.frozen in ("", frozen)
    )
    pairs.setdefault((champion, challenger))
    return list(pairs).index((champion, challenger)) + 1
