"""Modality shares: exact Shapley values of the modalities, in logits and in probabilities."""

from dataclasses import dataclass
from itertools import combinations
from math import factorial

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.models.bundle import Bundle, Encoded

Values = NDArray[np.float64]


def coalitions(players: int) -> NDArray[np.bool_]:
    """List every coalition of the players, (2^m, m); row k has the bits of k, so row 0 is empty."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def shapley(values: Values) -> Values:
    """Compute exact Shapley values.

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


@dataclass(frozen=True)
class ModalityShares:
    """What each modality of one study contributes to every finding.

    In logits as in probabilities, base plus shares is the value of the whole study.

    Args:
        modalities: those of the study.
        logit_base, logits: (F,) without any modality, and of the study.
        logit_shares: (m, F).
        probability_base, probabilities, probability_shares: likewise, calibrated.
    """

    modalities: tuple[Modality, ...]
    logit_base: Values
    logits: Values
    logit_shares: Values
    probability_base: Values
    probabilities: Values
    probability_shares: Values


@torch.inference_mode()
def modality_shares(bundle: Bundle, encoded: Encoded) -> list[ModalityShares]:
    """Share out the answers to encoded studies; the networks are not run again.

    Returns:
        Shares of each study.
    """
    used = bundle.task.modalities
    columns = [MODALITIES.index(m) for m in used]
    logits, probabilities = [], []
    for coalition in coalitions(len(used)):
        mask = torch.zeros_like(encoded.mask)
        mask[:, columns] = torch.from_numpy(coalition)
        joined = bundle.fusion.join(encoded.parts, encoded.mask & mask)
        logits.append(joined.double().numpy())
        probabilities.append(bundle.probabilities(joined))
    in_logits, in_probabilities = np.stack(logits), np.stack(probabilities)
    logit_shares, probability_shares = shapley(in_logits), shapley(in_probabilities)
    found = []
    for row in range(len(encoded)):
        present = encoded.modalities(row)
        own = [used.index(m) for m in present]
        found.append(
            ModalityShares(
                present,
                logit_base=in_logits[0, row],
                logits=in_logits[-1, row],
                logit_shares=logit_shares[own, row],
                probability_base=in_probabilities[0, row],
                probabilities=in_probabilities[-1, row],
                probability_shares=probability_shares[own, row],
            )
        )
    return found


def named_shares(
    findings: tuple[str, ...], modalities: tuple[Modality, ...], shares: Values
) -> dict[str, dict[Modality, float]]:
    """Name shares (m, F): finding → modality → share."""
    return {
        name: {m: float(shares[k, f]) for k, m in enumerate(modalities)}
        for f, name in enumerate(findings)
    }
