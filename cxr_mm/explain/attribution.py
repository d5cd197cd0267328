"""Explanation: which modality, and what within it, moved the logit of one target."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.types import Modality


@dataclass(frozen=True)
class Target:
    """What is explained: one finding of the task."""

    finding: str


@dataclass(frozen=True)
class Attribution:
    """The result of one method for one modality.

    Args:
        modality: what the values are about.
        method: name of the method, as `grad_cam`.
        values: image: float32 (S, S) over the square that the model saw; tabular: (T,) by
            `names`; note: (words,) by `names`. Positive speaks for the target, negative against.
        names: feature names, or words in their order; empty for an image.
        signed: whether the method has negative evidence; else values are in [0, 1].
        base: logit with nothing of the modality to go by, where the method's values add up:
            `base + sum of what each part got == output`. None where they need not.
        output: logit of the study as it is.
        extra: further figures of the method, as a local fit.
    """

    modality: Modality
    method: str
    values: NDArray[np.float32]
    names: tuple[str, ...] = ()
    signed: bool = False
    base: float | None = None
    output: float | None = None
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """All attributions of one target.

    `base + sum(shares.values()) == logit` to 1e-5, where `base` is the logit with every
    modality absent; likewise in probability.
    """

    study_id: str
    target: Target
    base: float
    shares: dict[Modality, float]
    logit: float
    base_probability: float = 0.0
    probability_shares: dict[Modality, float] = field(default_factory=dict)
    probability: float = 0.0
    attributions: tuple[Attribution, ...] = ()
