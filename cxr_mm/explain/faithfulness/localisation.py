"""Localisation: image methods against true areas, and against a map that never looks."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from PIL import Image

from cxr_mm.core.errors import StageError
from cxr_mm.data.synthetic.phantom import CONSOLIDATION_BIT, EFFUSION_BIT
from cxr_mm.data.tables import read_table
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.budget import TimeBudget
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.metrics import corrected_level, localise, mean_with_interval
from cxr_mm.explain.methods import Ask, Method, methods_of
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.geometry import mask_to_square
from cxr_mm.models.bundle import Bundle

BITS = {"consolidation": CONSOLIDATION_BIT, "effusion": EFFUSION_BIT}
COMPARED = ("pointing", "iou", "precision")
Mask = NDArray[np.bool_]
Areas = Mapping[str, Mask]
"""Study id → true area (S, S) in the model's square; not empty."""
Boxes = Mapping[str, Sequence[Sequence[float]]]
"""Study id → boxes [x, y, width, height] in pixels of the image."""


def read_boxes(path: Path, column: str) -> Boxes:
    """Read boxes that readers drew, from a CSV with `image` and a column of JSON lists.

    A box may begin with its finding's name; images without a box are left out.

    Raises:
        ManifestError: the file cannot be read or lacks a column.
        StageError: a cell is no list of boxes.
    """
    table = read_table(path, ("image", column))
    found: dict[str, list[list[float]]] = {}
    for image, cell in zip(table["image"], table[column].fillna("[]"), strict=True):
        try:
            boxes = [[float(side) for side in box[-4:]] for box in json.loads(cell)]
        except (TypeError, ValueError) as error:
            raise StageError(
                f"the boxes of {image} cannot be read ({error})",
                field=f"{path}: {column}",
                remedy="Write a JSON list of [x, y, width, height] in pixels of the image",
            ) from error
        if boxes:
            found[str(image)] = boxes
    return found


def box_areas(studies: Studies, boxes: Boxes, study_ids: Iterable[str], size: int) -> Areas:
    """Areas of the studies that have a box, several boxes as one."""
    areas = {}
    for study_id in study_ids:
        if study_id in boxes and studies.has_image(study_id):
            image = studies.study(study_id, with_image=True).image
            assert image is not None
            mask = np.zeros(image.shape, dtype=bool)
            for x, y, width, height in boxes[study_id]:
                rows = slice(max(0, round(y)), max(0, round(y + height)))
                mask[rows, max(0, round(x)) : max(0, round(x + width))] = True
            areas[study_id] = mask_to_square(mask, size)
    return {study_id: area for study_id, area in areas.items() if area.any()}


def mask_areas(
    studies: Studies, files: Mapping[str, Path | None], size: int, bit: int = 255
) -> Areas:
    """Areas out of PNG masks, the pixels that have one of the bits set."""
    read = {s: _bits(file) & bit > 0 for s, file in files.items() if file and file.is_file()}
    areas = {study_id: mask_to_square(mask, size) for study_id, mask in read.items()}
    return {s: area for s, area in areas.items() if area.any() and studies.has_image(s)}


def _bits(path: Path) -> NDArray[np.uint8]:
    with Image.open(path, formats=["PNG"]) as image:
        return np.asarray(image.convert("L"), dtype=np.uint8)


def finding_areas(
    studies: Studies, heldout: pd.DataFrame, finding: str, boxes: Boxes, size: int
) -> Areas:
    """True areas of one finding in the studies that have it: readers' boxes, or the masks of the
    synthetic source."""
    present = heldout.loc[heldout[f"label.{finding}"] == 1, "study_id"].astype(str).tolist()
    if boxes:
        return box_areas(studies, boxes, present, size)
    if finding not in BITS:
        return {}
    files = {study_id: studies.mask_file(study_id) for study_id in present}
    return mask_areas(studies, files, size, BITS[finding])


def average_location(
    areas: Areas, patients: Mapping[str, str], study_id: str
) -> NDArray[np.float32]:
    """Share of other patients' areas that cover each pixel (S, S): a map that never looks."""
    others = [area for s, area in areas.items() if patients[s] != patients[study_id]]
    if not others:
        return np.zeros(areas[study_id].shape, dtype=np.float32)
    average: NDArray[np.float32] = np.mean(others, axis=0, dtype=np.float32)
    return average


def against_areas(
    subject_of: Callable[[str], Subject],
    chosen: Iterable[str],
    areas: Areas,
    patients: Mapping[str, str],
    methods: Sequence[Method],
    finding: str,
    seed: int,
) -> pd.DataFrame:
    """Compare maps with true areas, over the image without its black margin.

    Args:
        subject_of: a study as a model has encoded it.
        chosen: ids of the studies to measure.
        areas: of these, and of all studies whose average location is compared with.
        patients: study id → patient, of every area.
        methods: of the image.
        finding: what is explained.
        seed: of the methods.

    Returns:
        A row for each study and method: `method`, `patient_id`, every figure of `Localisation`,
        `gain` (energy less chance), and of `COMPARED` the average location's own, as `average.iou`.
    """
    rows: list[dict[str, Any]] = []
    for study_id in chosen:
        subject, area = subject_of(study_id), areas[study_id]
        inside = subject.image_box
        average = asdict(
            localise(average_location(areas, patients, study_id)[inside], area[inside])
        )
        for method in methods:
            values = method.explain(subject, Target(finding), Ask(seed)).values
            figures = asdict(localise(np.maximum(values[inside], 0), area[inside]))
            figures["gain"] = figures["energy"] - figures["chance_energy"]
            figures |= {f"average.{name}": average[name] for name in COMPARED}
            rows.append({"method": method.name, "patient_id": patients[study_id], **figures})
    return pd.DataFrame(rows)


def summary(table: pd.DataFrame, tried: int) -> dict[str, Any]:
    """Figures of one method against one finding's areas.

    Args:
        table: rows of `against_areas` of one method.
        tried: methods that were measured, for all of which the comparison is corrected.

    Returns:
        `n`, `patients`, mean with interval over patients of each figure of `Localisation` and of
        `gain`; `average_precision`, that of the average location; `against_average`, the paired
        difference in average precision with the corrected interval; and `beats_average`.
    """
    patients = table["patient_id"].astype(str).tolist()
    names = [n for n in table.columns.drop(["method", "patient_id"]) if "." not in str(n)]
    less = (table["precision"] - table["average.precision"]).tolist()
    difference = mean_with_interval(less, patients, corrected_level(tried))
    return {
        "n": len(table),
        "patients": len(set(patients)),
        **{str(name): mean_with_interval(table[name].tolist(), patients) for name in names},
        "average_precision": mean_with_interval(table["average.precision"].tolist(), patients),
        "against_average": difference,
        "beats_average": difference["low"] is not None and difference["low"] > 0,
    }


def localisation_figures(
    bundle: Bundle,
    studies: Studies,
    heldout: pd.DataFrame,
    methods: Sequence[Method],
    boxes: Boxes,
    count: int,
    seed: int,
    budget: TimeBudget,
) -> dict[str, Any]:
    """Image methods against the true areas, on held-out studies that have the finding.

    Args:
        bundle: the model.
        studies: where the images are.
        heldout: rows of one subset, one a study.
        methods: which.
        boxes: that readers drew; empty for the masks of the synthetic source.
        count: studies of a finding at most.
        seed: of the choice and the methods.
        budget: time for all findings, in equal parts.

    Returns:
        Finding → method → figures of `summary`; a finding without areas is left out.
    """
    order = heldout.sample(frac=1, random_state=seed)
    every = {
        f: finding_areas(studies, order, f, boxes, bundle.size) for f in bundle.task.finding_names
    }
    known = {finding: areas for finding, areas in every.items() if areas}
    figures = {}
    for place, (finding, areas) in enumerate(known.items()):
        part = budget.part(1 / (len(known) - place))
        in_time = part.each(f"true areas of {finding}", list(areas)[:count])
        figures[finding] = _by_method(bundle, studies, in_time, areas, methods, finding, seed)
    return figures


def lung_figures(
    bundle: Bundle,
    studies: Studies,
    chosen: Sequence[str],
    methods: Sequence[Method],
    folder: Path,
    seed: int,
    budget: TimeBudget,
) -> dict[str, Any]:
    """Image methods against masks of the lungs that the user gives, as PNG by the image's name.

    Raises:
        StageError: none of the studies has a mask there.
    """
    areas = lung_areas(studies, chosen, folder, bundle.size)
    if not areas:
        raise StageError(
            "none of the images has a mask there",
            field=f"explain.lung_masks: {folder}",
            remedy="Name each mask as its image, with the ending .png",
        )
    figures = {}
    for place, finding in enumerate(names := bundle.task.finding_names):
        part = budget.part(1 / (len(names) - place))
        in_time = part.each(f"lungs, {finding}", list(areas))
        figures[finding] = _by_method(bundle, studies, in_time, areas, methods, finding, seed)
    return figures


def lung_areas(studies: Studies, chosen: Sequence[str], folder: Path, size: int) -> Areas:
    """Areas of those studies that have a mask in a folder, as PNG by the image's name."""
    images = {study_id: studies.image_file(study_id) for study_id in chosen}
    files = {s: folder / f"{image.stem}.png" for s, image in images.items() if image}
    return mask_areas(studies, files, size)


def _by_method(
    bundle: Bundle,
    studies: Studies,
    chosen: Iterable[str],
    areas: Areas,
    methods: Sequence[Method],
    finding: str,
    seed: int,
) -> dict[str, Any]:
    patients = {study_id: studies.patient(study_id) for study_id in areas}

    def subject_of(study_id: str) -> Subject:
        return Subject(bundle, studies.study(study_id, with_image=True))

    table = against_areas(subject_of, chosen, areas, patients, methods, finding, seed)
    if table.empty:
        return {}
    tried = len(methods_of("image"))
    return {str(name): summary(own, tried) for name, own in table.groupby("method", sort=False)}
