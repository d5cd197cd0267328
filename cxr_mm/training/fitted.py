"""Fitted: a fusion, the clinical transform it was trained behind, its operating points, bounds."""

from dataclasses import dataclass, field

from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.models.conformal import Conformal
from cxr_mm.models.fusion import Fusion
from cxr_mm.models.operating_point import OperatingPoints


@dataclass(frozen=True)
class Fitted:
    """A fusion with the clinical transform it was trained behind."""

    fusion: Fusion
    transform: ClinicalTransform
    points: OperatingPoints
    conformal: Conformal = field(default_factory=dict)
