"""Fitted: a fusion, the clinical transform it was trained behind, and its operating points."""

from dataclasses import dataclass

from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.models.fusion import Fusion
from cxr_mm.models.operating_point import OperatingPoints


@dataclass(frozen=True)
class Fitted:
    """A fusion with the clinical transform it was trained behind."""

    fusion: Fusion
    transform: ClinicalTransform
    points: OperatingPoints
