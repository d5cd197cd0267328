"""Part `localisation`: image methods against boxes of radiologists and masks of lungs.

Every study is explained by a fusion that has not seen its patient, on the bundle's image encoder,
which is frozen and has seen no label. The slow methods run the model hundreds of times and are
measured on the first studies only, paired with the average location on the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import expit

from benchmarks.accuracy.input_gate import Run
from benchmarks.accuracy.robustness import Sample
from benchmarks.explanations.dense_evidence import dense_evidence
from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Row
from cxr_mm.core.paths import data_root
from cxr_mm.core.task import load_task
from cxr_mm.data.sources import source_folder
from cxr_mm.data.split import load_split, resamples
from cxr_mm.explain.cases import Studies
from cxr_mm.explain.faithfulness.localisation import (
    COMPARED,
    Areas,
    against_areas,
    average_location,
    box_areas,
    finding_areas,
    lung_areas,
    read_boxes,
)
from cxr_mm.explain.faithfulness.metrics import localise, mean_with_interval
from cxr_mm.explain.methods import METHODS, methods_of
from cxr_mm.explain.stage import given_boxes, open_outputs
from cxr_mm.explain.subject import Subject
from cxr_mm.imaging.burnt_in_text import text_mask
from cxr_mm.imaging.geometry import mask_to_square
from cxr_mm.models.bundle import Bundle

BOXED, MASKED = ("nih_opacity",), ("covid",)
LUNG_MASKS = "annotations/lungs-v7labs"
OTHER_READERS = "nih_boxes"
SLOW_STUDIES, MASKED_STUDIES, SEED = 12, 40, 0
AVERAGE, GAIN = "average location of other patients", "over the average location"
DENSE = "tried: dense evidence"
WEIGHTED = "tried: average location weighted by dense evidence"
NAMES = {"pointing": "hit", "iou": "IoU", "precision": "average precision"}
LUNGS, WORDS = "localisation: lungs", "localisation: burnt-in words"
READERS = "localisation: readers"


def measure() -> list[Row]:
    """Rows of the tasks that have boxes or lung masks, and a bundle."""
    boxed = [
        row for paths in after("fuse", "localisation", BOXED) for row in _boxed(Held(Run(paths)))
    ]
    return boxed + [
        row
        for paths in after("fuse", "localisation", MASKED)
        for measured in (_in_lungs, _on_words)
        for row in measured(Held(Run(paths)))
    ]


@dataclass(frozen=True)
class Held:
    """Held-out studies of a task, and for each a bundle that has not seen its patient."""

    run: Run

    @cached_property
    def outputs(self) -> tuple[Bundle, pd.DataFrame, Studies]:
        return open_outputs(load_task(self.run.paths.task), self.run.paths)

    @property
    def studies(self) -> Studies:
        return self.outputs[2]

    @cached_property
    def order(self) -> pd.DataFrame:
        """Held-out rows in random order."""
        return self.outputs[1].sample(frac=1, random_state=SEED)

    @property
    def shuffled(self) -> list[str]:
        """Ids of the held-out studies in that order."""
        return self.order["study_id"].astype(str).tolist()

    @cached_property
    def bundles(self) -> dict[str, Bundle]:
        """Study id → bundle with the fusion that was fitted without it."""
        bundle, ids = self.outputs[0], self.run.manifest.frame["study_id"].astype(str).to_numpy()
        found: dict[str, Bundle] = {}
        parts = resamples(load_split(self.run.paths))
        for part, model in zip(parts, Sample(self.run).models, strict=True):
            own = replace(bundle, fusion=model.fusion.eval(), clinical=model.transform)
            found |= dict.fromkeys(ids[part.test].tolist(), own)
        return found

    def subject(self, study_id: str) -> Subject:
        """A study as its own bundle has encoded it."""
        return Subject(self.bundles[study_id], self.studies.study(study_id, with_image=True))

    def table(self, areas: Areas, finding: str, count: int | None, *, slow: bool) -> pd.DataFrame:
        """Rows of `against_areas` for quick or slow methods of the image."""
        patients = {study_id: self.studies.patient(study_id) for study_id in areas}
        methods = [each for each in methods_of("image") if each.slow == slow]
        chosen = list(areas)[:count]
        return against_areas(self.subject, chosen, areas, patients, methods, finding, SEED)


def _boxed(held: Held) -> Iterator[Row]:
    task, size = load_task(held.run.paths.task), held.outputs[0].size
    boxes = given_boxes(task, held.run.params.explain)
    for number, finding in enumerate(task.finding_names):
        areas = finding_areas(held.studies, held.order, finding, boxes, size)
        facts = {"task": task.name, "seed": SEED}
        quick = held.table(areas, finding, None, slow=False)
        yield from _compared(quick, finding, **facts)
        first = quick.drop_duplicates(["method"]).method.iloc[0]
        yield from _floors(quick[quick["method"] == first], finding, **facts)
        if not number:  # minutes a study, and much the same for a further finding
            slow = held.table(areas, finding, SLOW_STUDIES, slow=True)
            yield from _compared(slow, finding, **facts)
            yield from _compared(_tried(held, areas, finding), finding, **facts)
    yield from _readers(held)


def _tried(held: Held, areas: Areas, finding: str) -> pd.DataFrame:
    """Rows as of `against_areas` of the maps that the product does not have."""
    evidence = dense_evidence(held.run, held.run.manifest.task.finding_names.index(finding))
    patients = {study_id: held.studies.patient(study_id) for study_id in areas}
    rows: list[dict[str, Any]] = []
    for study_id, area in areas.items():
        average = average_location(areas, patients, study_id)
        alone = asdict(localise(average, area))
        own = evidence[study_id]
        for name, values in {DENSE: own, WEIGHTED: average * expit(2 * own)}.items():
            figures = asdict(localise((values - values.min()).astype(np.float32), area))
            figures |= {f"average.{metric}": alone[metric] for metric in COMPARED}
            rows.append({"method": name, "patient_id": patients[study_id], **figures})
    return pd.DataFrame(rows)


def _compared(table: pd.DataFrame, finding: str, **facts: Any) -> Iterator[Row]:
    """Figures of each method, and paired with the average location."""
    for name, own in table.groupby("method", sort=False):
        method = str(name)
        row = f"{finding}: {METHODS[method].title if method in METHODS else method}"
        for metric in COMPARED:
            yield _mean_row(own, own[metric], row=row, metric=NAMES[metric], **facts)
            less = own[metric] - own[f"average.{metric}"]
            gain = f"{NAMES[metric]} {GAIN}"
            yield _mean_row(own, less, row=row, metric=gain, reference=0.0, **facts)


def _floors(own: pd.DataFrame, finding: str, **facts: Any) -> Iterator[Row]:
    """What a map that never looks, and one that knows nothing, reach on the same studies."""
    chance = {"pointing": "chance_energy", "iou": "chance_iou", "precision": "chance_energy"}
    for metric in COMPARED:
        named = {f"{finding}: {AVERAGE}": f"average.{metric}", f"{finding}: chance": chance[metric]}
        for row, column in named.items():
            yield _mean_row(own, own[column], row=row, metric=NAMES[metric], **facts)


def _mean_row(own: pd.DataFrame, values: "pd.Series[float]", **facts: Any) -> Row:
    found = mean_with_interval(values.tolist(), own["patient_id"].astype(str).tolist())
    value, low, high = (None if v is None else round(v, 4) for v in found.values())
    limits = None if low is None or high is None else (low, high)
    return Row(value=value or 0.0, ci95=limits, n=len(own), **facts)


def _readers(held: Held) -> Iterator[Row]:
    """Boxes of the other readers, as a map, against those of the first, on images both drew on."""
    task, size = load_task(held.run.paths.task), held.outputs[0].size
    params = held.run.params.explain
    every = held.shuffled
    file = source_folder(task, data_root()) / str(params.boxes)
    one, other = (
        box_areas(held.studies, read_boxes(file, column), every, size)
        for column in (params.boxes_column, OTHER_READERS)
    )
    both = [study_id for study_id in one if study_id in other]
    table = pd.DataFrame(
        {"patient_id": held.studies.patient(s), "overlap": _overlap(one[s], other[s])} for s in both
    )
    if not table.empty:
        facts = {"table": READERS, "task": task.name, "seed": SEED}
        row = f"{OTHER_READERS} against {params.boxes_column}"
        yield _mean_row(table, table["overlap"], row=row, metric="IoU", **facts)


def _overlap(one: Any, other: Any) -> float:
    return float((one & other).sum() / (one | other).sum())


def _in_lungs(held: Held) -> Iterator[Row]:
    """Share of each map inside the lungs, and the lungs' share of the image."""
    folder = source_folder(load_task(held.run.paths.task), data_root()) / LUNG_MASKS
    areas = lung_areas(held.studies, held.shuffled, folder, held.outputs[0].size)
    yield from _inside(held, areas, LUNGS, "inside the lungs")


def _on_words(held: Held) -> Iterator[Row]:
    """Share of each map on burnt-in words, and the words' share of the image."""
    areas = word_areas(held.studies, held.shuffled, held.outputs[0].size, MASKED_STUDIES)
    yield from _inside(held, areas, WORDS, "on words")


def word_areas(studies: Studies, chosen: Sequence[str], size: int, most: int) -> Areas:
    """Areas (size, size) of the words of the first studies that have any."""
    areas: dict[str, NDArray[np.bool_]] = {}
    for study_id in filter(studies.has_image, chosen):
        image = studies.study(study_id, with_image=True).image
        assert image is not None
        area = mask_to_square(text_mask(image), size)
        if area.any():
            areas[study_id] = area
        if len(areas) == most:
            break
    return areas


def _inside(held: Held, areas: Areas, table: str, metric: str) -> Iterator[Row]:
    areas = dict(list(areas.items())[:MASKED_STUDIES])
    task = load_task(held.run.paths.task)
    for finding in task.finding_names:
        found = held.table(areas, finding, None, slow=False)
        for name, own in found.groupby("method", sort=False):
            facts = {"table": table, "task": task.name, "seed": SEED}
            facts["row"] = f"{finding}: {METHODS[str(name)].title}"
            yield _mean_row(own, own["energy"], metric=metric, **facts)
            yield _mean_row(own, own["chance_energy"], metric="share of area", **facts)
            yield _mean_row(own, own["gain"], metric="more than area", reference=0.0, **facts)
