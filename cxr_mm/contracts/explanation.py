"""Explanation: which modality, and what within it, moved the logit of one target."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.modality import Modality


@dataclass(frozen=True)
class Target:
    """What is explained: one finding of the task."""

    finding: str


@dataclass(frozen=True)
class Attribution:
    """What one method says of one modality.

    Args:
        modality: what the values are about.
        method: name of the method, as `grad_cam`.
        values: image: float32 (H, W) over the film as the model saw it; tabular: (T,) by
            `names`; note: (words,) by `names`.
        names: feature names or words; empty for an image.
        extra: further figures of the method, as a local fit.
    """

    modality: Modality
    method: str
    values: NDArray[np.float32]
    names: tuple[str, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Explanation:
    """All attributions of one target.

    `base + sum(shares.values()) == logit` to 1e-5, where `base` is the logit with every
    modality absent.
    """

    study_id: str
    target: Target
    base: float
    shares: dict[Modality, float]
    logit: float
    attributions: tuple[Attribution, ...] = ()
