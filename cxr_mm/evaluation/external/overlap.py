"""Overlap: which studies of an external table the bundle was trained on, in words too."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxr_mm.core.fingerprints import Fingerprints, file_digest
from cxr_mm.core.types import plural


@dataclass(frozen=True)
class Overlap:
    """Studies that a bundle was trained on.

    Args:
        studies: ids of those found, by study id, patient id or image.
        by: kind → how many were found by it; None where the bundle does not say what it was
            trained on.
        total: how many studies were compared.
    """

    studies: frozenset[str]
    by: Mapping[str, int] | None
    total: int

    def to_json(self, included: bool) -> dict[str, Any]:
        """For metrics.json; `text` is for a person."""
        by = None if self.by is None else dict(self.by)
        return {"found": len(self.studies), "by": by, "included": included} | {
            "text": self._text(included)
        }

    def _text(self, included: bool) -> str:
        if self.by is None:
            return (
                "The bundle does not say which studies it was trained on, so that figures may be "
                "of studies that it has seen."
            )
        how = ", ".join(f"{kind} {count:,}" for kind, count in self.by.items())
        found = f"{len(self.studies):,} of {plural(self.total, 'study')} were trained on (by {how})"
        if not self.studies:
            return f"{found}: all figures are of unseen studies."
        if included:
            return f"{found} and are included: the figures are not of unseen studies alone."
        return f"{found} and are left out: all figures are of unseen studies."


def find_overlap(trained: Fingerprints | None, frame: pd.DataFrame) -> Overlap:
    """Compare ids, patients and image files of a table with those trained on.

    Args:
        trained: of the bundle; None where it has none.
        frame: `study_id`, `patient_id` and `image_path`, missing as None.
    """
    if trained is None:
        return Overlap(frozenset(), None, len(frame))
    values: dict[str, Iterable[str | None]] = {
        "study_id": frame["study_id"],
        "patient_id": frame["patient_id"],
        "image": [file_digest(path) for path in frame["image_path"]],
    }
    found = {kind: trained.contains(kind, given) for kind, given in values.items()}
    any_kind = pd.DataFrame(found).any(axis=1).to_numpy(bool)
    by = {kind: int(mask.sum()) for kind, mask in found.items()}
    return Overlap(frozenset(frame["study_id"][any_kind]), by, len(frame))
