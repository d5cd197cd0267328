"""Tables: prediction records as rows, by one function for reference and window alike.

Columns: `created_at, study, patient`, then those that are watched (`watched_columns`):
`clinical.NAME`, `quality.NAME`, `image_pc.N`, `note_pc.N`, `has.MODALITY`, `view`,
`note.TRAIT`, `share.FINDING.MODALITY`, `probability.NAME`, `positive.NAME`, `certainty.NAME`; then
`label.NAME` (1, 0 or missing).
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from cxr_mm.core.errors import StageError
from cxr_mm.core.record import Outcome, PredictionRecord
from cxr_mm.core.task import Finding, Task
from cxr_mm.core.types import Modality, plural
from cxr_mm.data.notes import NOTE_TRAITS

FIT_SHARE = 1 / 3
FEWEST = 20


@dataclass(frozen=True)
class Projection:
    """Mean (D,), components (K, D) and scale (K,) of one embedding."""

    mean: NDArray[np.float32]
    components: NDArray[np.float32]
    scale: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.components)

    def apply(self, embeddings: NDArray[np.float32]) -> NDArray[np.float64]:
        """Embeddings (N, D) → scores (N, K).

        Raises:
            StageError: the embeddings have another width than those of the reference.
        """
        if embeddings.shape[1] != len(self.mean):
            raise StageError(
                f"the log holds embeddings of {embeddings.shape[1]} numbers, the reference of "
                f"{len(self.mean)}",
                field="embedding",
                remedy="Run the stage reference for the bundle that made the predictions",
            )
        scores = (embeddings - self.mean) @ self.components.T / self.scale
        return np.asarray(scores, np.float64)


def fit_projection(
    embeddings: NDArray[np.float32], patients: NDArray[np.int64], components: int, seed: int
) -> tuple[Projection, NDArray[np.bool_]]:
    """Fit on a third of the reference's patients.

    Args:
        embeddings: (N, D), one row per study that has one.
        patients: (N,) code of each study's patient.
        components: K at most; fewer where N or D do not allow it.
        seed: which patients, and of the randomised decomposition.

    Returns:
        The projection, and which rows (N,) it was fitted on: their scores are not comparable.

    Raises:
        StageError: too few studies or patients.
    """
    _, codes = np.unique(patients, return_inverse=True)
    rank = np.random.default_rng(seed).permutation(codes.max() + 1)[codes] if len(codes) else codes
    fit = rank < np.ceil((codes.max(initial=-1) + 1) * FIT_SHARE)
    if (fewest := min(fit.sum(), (~fit).sum())) < FEWEST:
        raise StageError(
            f"{plural(len(embeddings), 'study')} with an embedding; a third of their patients have "
            f"{fewest} of them, and at least {FEWEST} are needed",
            field="reference",
        )
    most = min(components, embeddings.shape[1], int(fit.sum()) - 1)
    pca = PCA(most, svd_solver="randomized", random_state=seed).fit(embeddings[fit])
    mean, axes = pca.mean_.astype(np.float32), pca.components_.astype(np.float32)
    spread = ((embeddings[~fit] - mean) @ axes.T).std(axis=0)
    return Projection(mean, axes, np.where(spread > 0, spread, 1.0).astype(np.float32)), fit


Kind = Literal["number", "category"]
Group = Literal[
    "clinical", "quality", "note", "modality", "view", "image_pc", "note_pc", "share", "prediction"
]
EMBEDDINGS: dict[Modality, Literal["image_pc", "note_pc"]] = {
    "image": "image_pc",
    "note": "note_pc",
}
Projections = Mapping[Modality, Projection]


ANSWERS: tuple[tuple[str, Kind, str], ...] = (
    ("probability", "number", "probabilities"),
    ("positive", "category", "positives"),
    ("certainty", "category", "certainties"),
)
"""Columns of a prediction: what their names begin with, kind, field of the record."""
Read = Callable[[PredictionRecord], Any]
"""Value of a record in a column, None where it is missing."""


@dataclass(frozen=True)
class WatchedColumn:
    """A column that monitoring compares.

    Args:
        name: in the table.
        kind: number (float, NaN where absent) or category (str, None where absent).
        group: what it belongs to.
        title: as a person reads it, unit included.
        read: value of a record; None for a component of an embedding.
        watch_missing: whether a change of the missing share is drift of its own; where a whole
            modality is absent, `has.MODALITY` shows it once.
    """

    name: str
    kind: Kind
    group: Group
    title: str
    read: Read | None = None
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
            _reader("clinical", f.name),
            watch_missing=True,
        )
        for f in task.clinical
    ]
    for name in quality:
        title, read = f"Image {name.replace('_', ' ')}", _reader("quality", name)
        columns.append(WatchedColumn(f"quality.{name}", "number", "quality", title, read))
    for modality, projection in projections.items():
        group, title = EMBEDDINGS[modality], f"{modality} embedding, component"
        for i in range(len(projection)):
            columns.append(WatchedColumn(f"{group}.{i}", "number", group, f"{title} {i}"))
    for m in task.modalities:
        read = partial(_has, m)
        columns.append(WatchedColumn(f"has.{m}", "category", "modality", f"Given: {m}", read))
    if task.has_image:
        read = _reader("view")
        columns.append(WatchedColumn("view", "category", "view", "View position", read))
    for name in NOTE_TRAITS if task.note else ():
        read = _reader("note_traits", name)
        columns.append(WatchedColumn(f"note.{name}", "number", "note", f"Note: {name}", read))
    return columns + [c for finding in task.findings for c in _of_finding(task, finding)]


def _reader(field: str, *keys: str) -> Read:
    """Read a field of a record, or what it contains under these keys."""

    def read(record: PredictionRecord) -> Any:
        value = getattr(record, field)
        for key in keys:
            value = (value or {}).get(key)
        return value

    return read


def _has(modality: Modality, record: PredictionRecord) -> bool:
    return modality in record.modalities


def _of_finding(task: Task, finding: Finding) -> Iterator[WatchedColumn]:
    """Columns of the prediction of a finding, and of the modalities it relies on."""
    name, title = finding.name, f"{finding.title}: "
    # A single modality has no share of its own.
    for m in task.modalities if len(task.modalities) > 1 else ():
        read = _reader("shares", name, m)
        yield WatchedColumn(f"share.{name}.{m}", "number", "share", f"{title}share of {m}", read)
    for word, kind, field in ANSWERS:
        read = _reader(field, name)
        yield WatchedColumn(f"{word}.{name}", kind, "prediction", title + word, read)


def records_table(
    records: Sequence[PredictionRecord],
    task: Task,
    quality: Sequence[str],
    projections: Projections,
    outcomes: Sequence[Outcome] = (),
) -> pd.DataFrame:
    """One row per record, in the order given; columns as in the module docstring."""
    data: dict[str, Any] = {
        "created_at": [r.created_at for r in records],
        "study": [r.study_hash for r in records],
        "patient": [r.patient_hash or f"study {r.study_hash}" for r in records],
    }
    components: dict[str, NDArray[np.float64]] = {}
    for modality, projection in projections.items():
        scores = _scores([embedding_of(r, modality) for r in records], projection)
        components |= {f"{EMBEDDINGS[modality]}.{i}": one for i, one in enumerate(scores.T)}
    for column in watched_columns(task, quality, projections):
        if column.read is None:
            data[column.name] = components[column.name]
        else:
            values = [column.read(record) for record in records]
            data[column.name] = (
                _numbers(values) if column.kind == "number" else [_category(v) for v in values]
            )
    labels = {(o.study_hash, o.finding): float(o.label) for o in outcomes}
    for name in task.finding_names:
        data[f"label.{name}"] = _numbers([labels.get((r.study_hash, name)) for r in records])
    return pd.DataFrame(data)


def newest_per_study(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the newest row of each study: a repeated prediction is no new evidence."""
    ordered = table.sort_values("created_at", kind="stable")
    return ordered.drop_duplicates("study", keep="last").reset_index(drop=True)


def _numbers(values: Sequence[Any]) -> NDArray[np.float64]:
    return np.array([np.nan if v is None else float(v) for v in values], np.float64)


def _category(value: Any) -> str | None:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return None if value is None else str(value)


def embedding_of(record: PredictionRecord, modality: Modality) -> tuple[float, ...] | None:
    """Embedding of a modality, if the record has one."""
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
