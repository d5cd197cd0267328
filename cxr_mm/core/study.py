"""Study: one examination of one patient; any of its three modalities may be absent."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.types import Modality

ClinicalValue = float | str | None


@dataclass(frozen=True)
class Study:
    """The input of a prediction.

    Args:
        study_id: the caller's own id; only its keyed hash is ever stored.
        patient_id: likewise; may be absent.
        image: radiograph, float32 (H, W) in [0, 1], MONOCHROME2 (air dark), or None.
        clinical: feature name → value; None or a missing name means not known.
        note: clinical note, or None.
        view: view position as DICOM has it (PA, AP, …), or None.
        warnings: of the image reader, for a person to know.
        quality: image quality statistics, if already measured.
        fitted: whether the image is the square that a model sees, as `ingest`, `read_fitted` or
            `Bundle.fitted` made it.
        shape: height and width of the image before it was fitted, where that is known.
    """

    study_id: str
    patient_id: str | None = None
    image: NDArray[np.float32] | None = None
    clinical: Mapping[str, ClinicalValue] = field(default_factory=dict)
    note: str | None = None
    view: str | None = None
    warnings: tuple[str, ...] = ()
    quality: Mapping[str, float] = field(default_factory=dict)
    fitted: bool = False
    shape: tuple[int, int] | None = None

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """Modalities with content, in canonical order."""
        has: dict[Modality, bool] = {
            "image": self.image is not None,
            "tabular": any(value is not None for value in self.clinical.values()),
            "note": bool(self.note and self.note.strip()),
        }
        return tuple(m for m, present in has.items() if present)
