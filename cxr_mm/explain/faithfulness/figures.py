"""Figures: how much of each image method falls on the true areas, where the source knows them, and
on the lungs, where the user gives their masks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr_mm.contracts.explanation import Target
from cxr_mm.data.sources.synthetic.phantom import CONSOLIDATION_BIT, EFFUSION_BIT
from cxr_mm.errors import StageError
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.intervals import mean_with_interval
from cxr_mm.explain.faithfulness.localisation import localise
from cxr_mm.explain.film import mask_to_square
from cxr_mm.explain.methods import Ask, Method
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle

BITS = {"consolidation": CONSOLIDATION_BIT, "effusion": EFFUSION_BIT}
Mask = NDArray[np.bool_]


def localisation_figures(
    bundle: Bundle,
    studies: Studies,
    heldout: pd.DataFrame,
    methods: Sequence[Method],
    count: int,
    seed: int,
) -> dict[str, Any]:
    """Image methods against the true masks, on held-out studies that have the finding.

    Args:
        bundle: the model.
        studies: where the images are.
        heldout: rows of one subset, one a study.
        methods: which.
        count: studies of a finding at most.
        seed: of the choice, the methods and the bootstrap.

    Returns:
        Finding → method → n, and mean with interval of each figure of `Localisation`, and of `gain`
        (energy less what chance gives).
    """
    figures: dict[str, Any] = {}
    for finding in (f for f in bundle.task.finding_names if f in BITS):
        rows = heldout[heldout[f"label.{finding}"] == 1].sample(frac=1, random_state=seed)
        shown = [str(s) for s in rows["study_id"] if studies.has_image(s) and studies.mask_file(s)]

        def true_area(study_id: str, bit: int = BITS[finding]) -> Mask | None:
            path = studies.mask_file(study_id)
            return None if path is None else _bits(path) & bit > 0

        found = {
            method.name: _against(bundle, studies, shown[:count], method, finding, true_area, seed)
            for method in methods
        }
        figures[finding] = {name: figure for name, figure in found.items() if figure}
    return figures


def lung_figures(
    bundle: Bundle,
    studies: Studies,
    chosen: Sequence[str],
    methods: Sequence[Method],
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    """Image methods against masks of the lungs that the user gives, as PNG by the film's name.

    Raises:
        StageError: none of the studies has a mask there.
    """
    there = [s for s in chosen if (mask := _lung_mask(studies, folder, s)) and mask.is_file()]
    if not there:
        raise StageError(
            "none of the films has a mask there",
            field=f"explain.lung_masks: {folder}",
            remedy="Name each mask as its film, with the ending .png",
        )

    def lungs(study_id: str) -> Mask | None:
        path = _lung_mask(studies, folder, study_id)
        return None if path is None else _bits(path) > 0

    return {
        finding: {
            method.name: _against(bundle, studies, there, method, finding, lungs, seed)
            for method in methods
        }
        for finding in bundle.task.finding_names
    }


def _lung_mask(studies: Studies, folder: Path, study_id: str) -> Path | None:
    film = studies.film_file(study_id)
    return None if film is None else folder / f"{film.stem}.png"


def _bits(path: Path) -> NDArray[np.uint8]:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("L"), dtype=np.uint8)


def _against(
    bundle: Bundle,
    studies: Studies,
    chosen: Sequence[str],
    method: Method,
    finding: str,
    area: Callable[[str], Mask | None],
    seed: int,
) -> dict[str, Any] | None:
    rows = [
        row
        for study_id in chosen
        if (row := _localised(bundle, studies, study_id, method, finding, area, seed)) is not None
    ]
    if not rows:
        return None
    table = pd.DataFrame(rows)
    table["gain"] = table["energy"] - table["chance_energy"]
    patients = table.pop("patient_id").astype(str).tolist()
    return {
        "n": len(table),
        **{str(n): mean_with_interval(c.tolist(), patients, seed) for n, c in table.items()},
    }


def _localised(
    bundle: Bundle,
    studies: Studies,
    study_id: str,
    method: Method,
    finding: str,
    area: Callable[[str], Mask | None],
    seed: int,
) -> dict[str, Any] | None:
    """Figures over the film, without the black margin; None where the area left no trace."""
    true = area(study_id)
    if true is None:
        return None
    mask = mask_to_square(true, bundle.size)
    if not mask.any():
        return None
    subject = Subject(bundle, studies.study(study_id, film=True))
    said = method.explain(subject, Target(finding), Ask(seed))
    inside = subject.film_box
    figures = localise(np.maximum(said.values[inside], 0), mask[inside])
    return {"patient_id": subject.study.patient_id, **figures.as_dict()}
