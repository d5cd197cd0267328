"""Shares: exact Shapley values of the modalities (Shapley 1953), which add up to the logit.

A modality outside the coalition is masked, so its value is the model's own learnt absent state.
With at most three modalities every coalition is asked, in one batch over embeddings made once.
"""

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.contracts.explanation import Explanation, Target
from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.explain.subject import Subject
from cxr_mm.models.shapley import coalitions, shapley


def modality_shares(subject: Subject) -> dict[str, Explanation]:
    """Share of each modality in the logit and in the probability of every finding.

    Returns:
        Finding name → Explanation without attributions; `base + sum(shares) == logit` to 1e-5, and
        the like in probability.
    """
    present = [MODALITIES.index(modality) for modality in subject.present]
    subsets = coalitions(len(present))
    mask = torch.zeros(len(subsets), len(MODALITIES), dtype=torch.bool)
    mask[:, present] = torch.from_numpy(subsets)
    logits = subject.shown(mask)
    chances = subject.bundle.probabilities(torch.from_numpy(logits))
    in_logits, in_chances = shapley(logits), shapley(chances)
    return {
        finding: Explanation(
            study_id=subject.study.study_id,
            target=Target(finding),
            base=float(logits[0, f]),
            shares=_named(subject, in_logits[:, f]),
            logit=float(logits[-1, f]),
            base_probability=float(chances[0, f]),
            probability_shares=_named(subject, in_chances[:, f]),
            probability=float(chances[-1, f]),
        )
        for f, finding in enumerate(subject.bundle.task.finding_names)
    }


def _named(subject: Subject, shares: NDArray[np.float64]) -> dict[Modality, float]:
    return {m: float(share) for m, share in zip(subject.present, shares, strict=True)}
