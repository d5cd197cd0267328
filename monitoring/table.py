"""Records → table: one function for reference and current alike, so that both mean the same.

Columns: `created_at, study, patient`, then those that are watched (`watched_columns`):
`clinical.NAME`, `quality.NAME`, `image_pc.N`, `note_pc.N`, `has.MODALITY`, `view`,
`note.TRAIT`, `share.FINDING.MODALITY`, `probability.NAME`, `positive.NAME`, `certainty.NAME`; then
`label.NAME` (1, 0 or missing).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.contracts.modality import Modality
from cxr_mm.contracts.record import Outcome, PredictionRecord
from cxr_mm.contracts.task import Finding, Task
from cxr_mm.data.note_traits import NOTE_TRAITS
from monitoring.projection import Projection

Kind = Literal["number", "category"]
Group = Literal[
    "clinical", "quality", "note", "modality", "view", "image_pc", "note_pc", "share", "prediction"
]
EMBEDDINGS: dict[Modality, Literal["image_pc", "note_pc"]] = {
    "image": "image_pc",
    "note": "note_pc",
}
Projections = Mapping[Modality, Projection]


@dataclass(frozen=True)
class WatchedColumn:
    """A column that monitoring compares.

    Args:
        name: in the table.
        kind: number (float, NaN where absent) or category (str, None where absent).
        group: what it belongs to.
        title: as a person reads it, unit included.
        watch_missing: whether a change of the missing share is drift of its own; where a whole
            modality is absent, `has.MODALITY` says so once.
    """

    name: str
    kind: Kind
    group: Group
    title: str
    watch_missing: bool = False


def watched_columns(
    task: Task, quality: Sequence[str], projections: Projections
) -> list[WatchedColumn]:
    """Every column that is compared, in the table's order."""
    columns = [
        WatchedColumn(
            f"clinical.{f.name}",
            f.type,
            "clinical",
            f"{f.title} ({f.unit})" if f.unit else f.title,
            watch_missing=True,
        )
        for f in task.clinical
    ]
    columns += [
        WatchedColumn(f"quality.{name}", "number", "quality", f"Image {name.replace('_', ' ')}")
        for name in quality
    ]
    for modality, projection in projections.items():
        group = EMBEDDINGS[modality]
        columns += [
            WatchedColumn(f"{group}.{i}", "number", group, f"{modality} embedding, component {i}")
            for i in range(len(projection))
        ]
    columns += [
        WatchedColumn(f"has.{m}", "category", "modality", f"Given: {m}") for m in task.modalities
    ]
    if task.has_image:
        columns.append(WatchedColumn("view", "category", "view", "View position"))
    if task.note:
        columns += [
            WatchedColumn(f"note.{name}", "number", "note", f"Note: {name}") for name in NOTE_TRAITS
        ]
    return columns + [c for finding in task.findings for c in _of_finding(task, finding)]


def _of_finding(task: Task, finding: Finding) -> list[WatchedColumn]:
    """What the model says of a finding, and what it leans on."""
    name, title = finding.name, f"{finding.title}: "
    return [
        *(
            WatchedColumn(f"share.{name}.{m}", "number", "share", f"{title}share of {m}")
            for m in _sharing(task)
        ),
        WatchedColumn(f"probability.{name}", "number", "prediction", title + "probability"),
        WatchedColumn(f"positive.{name}", "category", "prediction", title + "positive"),
        WatchedColumn(f"certainty.{name}", "category", "prediction", title + "certainty"),
    ]


def records_table(
    records: Sequence[PredictionRecord],
    task: Task,
    quality: Sequence[str],
    projections: Projections,
    outcomes: Sequence[Outcome] = (),
) -> pd.DataFrame:
    """One row per record, in the order given; columns as this module's docstring has them."""
    data: dict[str, Any] = {
        "created_at": [r.created_at for r in records],
        "study": [r.study_hash for r in records],
        "patient": [r.patient_hash or f"study {r.study_hash}" for r in records],
    }
    for feature in task.clinical:
        values = [r.clinical.get(feature.name) for r in records]
        data[f"clinical.{feature.name}"] = (
            _numbers(values) if feature.type == "number" else _categories(values)
        )
    for name in quality:
        data[f"quality.{name}"] = _numbers([r.quality.get(name) for r in records])
    for modality, projection in projections.items():
        scores = _scores([_embedding(r, modality) for r in records], projection)
        for i in range(len(projection)):
            data[f"{EMBEDDINGS[modality]}.{i}"] = scores[:, i]
    for modality in task.modalities:
        data[f"has.{modality}"] = [_yes(modality in r.modalities) for r in records]
    if task.has_image:
        data["view"] = _categories([r.view for r in records])
    if task.note:
        for name in NOTE_TRAITS:
            data[f"note.{name}"] = _numbers([r.note_traits.get(name) for r in records])
    labels = {(o.study_hash, o.finding): float(o.label) for o in outcomes}
    for name in task.finding_names:
        data |= _answers(records, task, name)
        data[f"label.{name}"] = _numbers([labels.get((r.study_hash, name)) for r in records])
    return pd.DataFrame(data)


def _answers(records: Sequence[PredictionRecord], task: Task, name: str) -> dict[str, Any]:
    """Columns of what was said of a finding."""
    shares = [r.shares.get(name, {}) for r in records]
    positives = [r.positives.get(name) for r in records]
    return {
        **{f"share.{name}.{m}": _numbers([s.get(m) for s in shares]) for m in _sharing(task)},
        f"probability.{name}": _numbers([r.probabilities.get(name) for r in records]),
        f"positive.{name}": [None if p is None else _yes(p) for p in positives],
        f"certainty.{name}": _categories([r.certainties.get(name) for r in records]),
    }


def _sharing(task: Task) -> tuple[Modality, ...]:
    """Modalities that share an answer out; one alone gives all of it."""
    return task.modalities if len(task.modalities) > 1 else ()


def newest_per_study(table: pd.DataFrame) -> pd.DataFrame:
    """The newest row of each study: a study that was asked again is no new evidence."""
    ordered = table.sort_values("created_at", kind="stable")
    return ordered.drop_duplicates("study", keep="last").reset_index(drop=True)


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else float(v) for v in values], np.float64)


def _categories(values: Sequence[Any]) -> list[str | None]:
    return [None if v is None else str(v) for v in values]


def _yes(value: bool) -> str:
    return "yes" if value else "no"


def _embedding(record: PredictionRecord, modality: Modality) -> tuple[float, ...] | None:
    return record.image_embedding if modality == "image" else record.note_embedding


def _scores(
    embeddings: Sequence[tuple[float, ...] | None], projection: Projection
) -> NDArray[np.float64]:
    """Scores (N, K), NaN where there is no embedding."""
    scores = np.full((len(embeddings), len(projection)), np.nan)
    for width in {len(e) for e in embeddings if e is not None}:
        rows = [i for i, e in enumerate(embeddings) if e is not None and len(e) == width]
        scores[rows] = projection.apply(np.array([embeddings[i] for i in rows], np.float32))
    return scores
