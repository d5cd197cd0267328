"""What if: the probability as one clinical feature moves over its range, all else fixed
(individual conditional expectation: Goldstein et al. 2015)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_mm.core.errors import ClinicalError, did_you_mean
from cxr_mm.core.study import ClinicalValue
from cxr_mm.core.task import ClinicalFeature
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.subject import Subject

POINTS = 25


@dataclass(frozen=True)
class WhatIf:
    """A curve.

    Args:
        feature: which.
        values: numbers over the range where the model has seen patients, or every category.
        probabilities: of the target at each, calibrated.
        unknown: the probability where the feature is not known.
    """

    feature: str
    values: tuple[ClinicalValue, ...]
    probabilities: tuple[float, ...]
    unknown: float


def what_if(subject: Subject, target: Target, feature: str) -> WhatIf:
    """Vary one feature of a study.

    Raises:
        ClinicalError: the task has no such feature.
        InputError: it has no such finding.
    """
    task = subject.bundle.task
    known = {f.name: f for f in task.clinical}
    if feature not in known:
        raise ClinicalError(
            "no such clinical feature",
            field=feature,
            remedy=did_you_mean(feature, known, f"This task knows {', '.join(known) or 'none'}"),
        )
    values = _values(known[feature], subject.bundle.background)
    chances = _chances(subject, feature, [*values, None])[:, subject.column(target)]
    return WhatIf(feature, tuple(values), tuple(chances[:-1].tolist()), float(chances[-1]))


def probabilities_at(subject: Subject, values: Mapping[str, ClinicalValue]) -> tuple[float, ...]:
    """Predict the calibrated probability of each finding at other, checked clinical values.

    Args:
        subject: whose other modalities are fixed.
        values: of every clinical feature of the task.
    """
    return tuple(_probabilities(subject, pd.DataFrame([dict(values)]))[0].tolist())


def typical_range(background: pd.DataFrame, feature: str) -> tuple[float, float] | None:
    """The range of nine in ten training patients; None where none is known."""
    known = background[feature].dropna().to_numpy(float)
    if not len(known):
        return None
    low, high = np.quantile(known, [0.05, 0.95])
    return float(low), float(high)


def _values(feature: ClinicalFeature, background: pd.DataFrame) -> list[ClinicalValue]:
    if feature.type == "category":
        return list(feature.categories)
    known = background[feature.name].dropna()
    low, high = feature.minimum, feature.maximum
    if len(known):
        low, high = float(known.min()), float(known.max())
    assert low is not None
    assert high is not None
    return [float(value) for value in np.linspace(low, high, POINTS)]


def _chances(subject: Subject, feature: str, values: list[ClinicalValue]) -> Any:
    own = subject.encoded.clinical[0]
    return _probabilities(subject, pd.DataFrame([{**own, feature: value} for value in values]))


def _probabilities(subject: Subject, frame: pd.DataFrame) -> Any:
    bundle = subject.bundle
    vectors = torch.from_numpy(bundle.clinical.apply(frame))
    return bundle.probabilities(torch.from_numpy(subject.of_clinical(vectors)))
