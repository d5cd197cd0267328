"""Cases: which held-out studies the gallery shows, and studies as the bundle takes them."""

from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import pandas as pd

from cxr_mm.core.errors import RadiographError
from cxr_mm.core.shards.store import place_of
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.manifest import ABSENT, Manifest
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.studies import build_study
from cxr_mm.imaging.radiograph import Radiograph, read_radiograph

Kind = Literal["true positive", "false positive", "false negative", "true negative"]
KINDS: tuple[Kind, ...] = ("true positive", "false positive", "false negative", "true negative")


@dataclass(frozen=True)
class Case:
    """One held-out study and one finding of it, and whether the prediction was right."""

    study_id: str
    finding: str
    kind: Kind
    probability: float
    """Calibrated, on this study when it was held out."""
    threshold: float | None


def choose(task: Task, heldout: pd.DataFrame, count: int, seed: int) -> list[Case]:
    """Up to `count` cases: the four kinds in turn, findings in turn within each, seeded.

    Args:
        task: for the order of its findings.
        heldout: rows of heldout.parquet of one subset, one a study.
        count: how many; fewer where there are not as many.
        seed: same seed, same cases.
    """
    rng = np.random.default_rng(seed)
    shuffled = heldout.iloc[rng.permutation(len(heldout))]
    queues = {kind: [_cases(shuffled, name, kind) for name in task.finding_names] for kind in KINDS}
    chosen: list[Case] = []
    seen: set[str] = set()
    while len(chosen) < count and any(map(any, queues.values())):
        for kind in KINDS:
            case = _next(queues[kind], seen)
            if case is not None and len(chosen) < count:
                chosen.append(case)
                seen.add(case.study_id)
    return chosen


def _cases(rows: pd.DataFrame, finding: str, kind: Kind) -> list[Case]:
    label = rows[f"label.{finding}"]
    result = rows[f"positive.{finding}"].astype(bool)
    right, positive = kind.startswith("true"), kind.endswith("positive")
    picked = rows[(result == positive) & (label == float(positive == right))]
    thresholds = picked[f"threshold.{finding}"]
    return [
        Case(str(study), finding, kind, float(p), None if pd.isna(t) else float(t))
        for study, p, t in zip(
            picked["study_id"], picked[f"probability.{finding}"], thresholds, strict=True
        )
    ]


def _next(queues: list[list[Case]], seen: set[str]) -> Case | None:
    """First case of a study not seen yet; its finding then goes to the end of the queue."""
    for position, queue in enumerate(queues):
        while queue:
            case = queue.pop(0)
            if case.study_id not in seen:
                queues.append(queues.pop(position))
                return case
    return None


class Studies:
    """Studies of a manifest by id.

    Args:
        manifest: the table.
        pixels: the cache that its `pixel_row` points into; None where the task has no image.
    """

    def __init__(self, manifest: Manifest, pixels: Path | None) -> None:
        self.task, self.frame = manifest.task, manifest.frame
        self.clinical = manifest.clinical()
        self.rows = {str(s): i for i, s in enumerate(self.frame["study_id"])}
        self.pixels = open_pixels(pixels) if pixels is not None else None

    def study(self, study_id: str, *, with_image: bool = False) -> Study:
        """A study with its image as the cached square, or as the image itself.

        The image falls back to the square where its file is gone or can no longer be read.
        """
        row = self.rows[study_id]
        text = self.frame.iloc[row].astype(object).where(self.frame.iloc[row].notna(), None)
        return build_study(
            self.task,
            partial(self._radiograph, row, with_image) if self.has_image(study_id) else None,
            {str(k): v for k, v in self.clinical.iloc[row].items()},
            note=text["note"],
            view=text["view"],
            study_id=study_id,
            patient_id=text["patient_id"],
        )

    def _radiograph(self, row: int, with_image: bool) -> Radiograph:
        if with_image:
            with suppress(RadiographError):
                return read_radiograph(place_of(str(self.frame["image_path"].iloc[row])))
        assert self.pixels is not None
        square = self.pixels[int(self.frame["pixel_row"].iloc[row])]
        return Radiograph(np.asarray(square, dtype=np.float32) / np.float32(255), fitted=True)

    def patient(self, study_id: str) -> str:
        """Patient of the study."""
        return str(self.frame["patient_id"].iloc[self.rows[study_id]])

    def image_file(self, study_id: str) -> Path | None:
        """Path of the image; None where the study has none."""
        path = self.frame["image_path"].iloc[self.rows[study_id]]
        return None if pd.isna(path) else Path(str(path))

    def mask_file(self, study_id: str) -> Path | None:
        """Path of the synthetic source's mask of the true areas; None where it has none."""
        image = self.image_file(study_id)
        mask = None if image is None else image.parent.parent / "masks" / f"{study_id}.png"
        return mask if mask is not None and mask.is_file() else None

    def has_image(self, study_id: str) -> bool:
        """Whether the study has an image in the cache."""
        row = self.rows[study_id]
        return self.pixels is not None and int(self.frame["pixel_row"].iloc[row]) != ABSENT
