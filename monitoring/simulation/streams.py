"""Streams: windows drawn from a prediction pool, shifted or not, evaluated as in service."""

import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.prediction import Answer
from cxr_mm.core.record import Outcome, PredictionRecord, ServiceEvent, record_of
from cxr_mm.core.shards.store import Place, place_of
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.verdict import Verdict
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.manifest import clinical_column, finding_column, load_manifest
from cxr_mm.data.sources import read_source
from cxr_mm.data.studies import build_study
from cxr_mm.imaging.geometry import shrink_radiograph
from cxr_mm.imaging.radiograph import Radiograph, read_radiograph
from cxr_mm.inference.predictor import Predictor
from monitoring.concept_drift import labelled
from monitoring.reference import Reference, freeze, load_reference
from monitoring.simulation.shifts import SHIFTS, Shift, possible
from monitoring.statistics import as_codes
from monitoring.table import records_table
from monitoring.verdict import Window, evaluate_window
from monitoring.window import LONGER, MOST_LABELLED, LoadedWindow

BATCH = 16
START = datetime(2026, 1, 1, tzinfo=UTC)
MaybeRecord = PredictionRecord | None
"""A prediction; None where the input gate rejected the image."""


@dataclass(frozen=True)
class Labelled:
    """A study whose labels are known.

    Args:
        load: reads the study; images are not kept in memory.
        study: its id.
        patient: id of its patient.
        labels: finding → 1 or 0, known labels only.
    """

    load: Callable[[], Study]
    study: str
    patient: str
    labels: dict[str, int]


@dataclass(frozen=True)
class PredictionPool:
    """Predictions of studies, unchanged and corrupted by every shift.

    Args:
        studies: N studies.
        plain: predictions (N) of the unchanged studies.
        corrupted: (shift, strength) → predictions (N); strength 1 where the size is a share.
    """

    studies: Sequence[Labelled]
    plain: list[MaybeRecord]
    corrupted: dict[tuple[str, float], list[MaybeRecord]]


def strengths(shift: Shift) -> tuple[float, ...]:
    """Strengths at which studies are corrupted."""
    if shift.alter is None:
        return ()
    return shift.sizes if shift.kind == "strength" else (1.0,)


def predict(predictor: Predictor, studies: Sequence[Labelled]) -> list[MaybeRecord]:
    """Predict the unchanged studies."""
    return [
        record
        for batch in _batches(studies)
        for record in _predicted(predictor, batch, [study.load() for study in batch])[0]
    ]


def build_pool(predictor: Predictor, studies: Sequence[Labelled], seed: int = 0) -> PredictionPool:
    """Predict every study, unchanged and corrupted; an image is embedded again only where its
    pixels change."""
    task = predictor.bundle.task
    shifts = [shift for shift in SHIFTS if possible(shift, task)]
    plain: list[MaybeRecord] = []
    corrupted: dict[tuple[str, float], list[MaybeRecord]] = {
        (shift.name, size): [] for shift in shifts for size in strengths(shift)
    }
    for number, batch in enumerate(_batches(studies)):
        loaded = [study.load() for study in batch]
        records, images = _predicted(predictor, batch, loaded)
        plain += records
        for shift in shifts:
            for size in strengths(shift):
                assert shift.alter is not None
                random = np.random.default_rng([seed, number])
                other = [shift.alter(study, size, random, task) for study in loaded]
                same = all(a.image is b.image for a, b in zip(loaded, other, strict=True))
                records, _ = _predicted(predictor, batch, other, images if same else None)
                corrupted[shift.name, size] += records
    return PredictionPool(studies, plain, corrupted)


def _batches(studies: Sequence[Labelled]) -> Iterator[Sequence[Labelled]]:
    return (studies[i : i + BATCH] for i in range(0, len(studies), BATCH))


def _predicted(
    predictor: Predictor,
    batch: Sequence[Labelled],
    studies: list[Study],
    images: NDArray[np.float32] | None = None,
) -> tuple[list[MaybeRecord], NDArray[np.float32] | None]:
    """Records, and embeddings of the images."""
    encoded = predictor.bundle.encode(studies, images)
    answers = predictor.attempt_encoded(studies, encoded)
    records = [
        record_of(
            answer,
            record_id=labelled.study,
            created_at=START,
            study=labelled.study,
            patient=labelled.patient,
        )
        if isinstance(answer, Answer)
        else None
        for answer, labelled in zip(answers, batch, strict=True)
    ]
    embedded = encoded.embeddings.get("image")
    return records, None if embedded is None else embedded.numpy()


Random = np.random.Generator
Rows = NDArray[np.int64]
Predicted = tuple[Sequence[Labelled], Sequence[MaybeRecord]]
"""Studies and their predictions."""
PLAIN = ("", 0.0)


@dataclass(frozen=True)
class Setting:
    """A frozen reference, and the pool's studies as rows of its columns.

    Args:
        reference: frozen.
        tables: (shift, strength) → rows of the pool; those of rejected images are placeholders.
        rejected: (shift, strength) → whether the input gate rejected each row.
        fresh: unchanged rows of every study outside the reference, without rejected ones, patient
            by patient.
    """

    reference: Reference
    tables: dict[tuple[str, float], pd.DataFrame]
    rejected: dict[tuple[str, float], NDArray[np.bool_]]
    fresh: pd.DataFrame


@dataclass(frozen=True)
class WindowSpec:
    """How the windows of a stream are drawn.

    Args:
        shift: simulated shift; None for no drift.
        size: strength, share or weight.
        window: studies per window.
        labels: share of labelled studies.
        corrupted: share of studies that a corrupting shift alters; None: all, or `size` where that
            is a share.
    """

    shift: Shift | None
    size: float
    window: int
    labels: float = 0.0
    corrupted: float | None = None

    @property
    def share(self) -> float:
        """Share of studies that are corrupted."""
        if self.corrupted is not None:
            return self.corrupted
        return self.size if self.shift is not None and self.shift.kind == "share" else 1.0


@dataclass
class Stream:
    """The state between windows.

    Args:
        before: the last verdict.
        known: labelled studies of the last windows.
        number: of windows so far.
        remaining: rows that were not drawn yet.
    """

    before: Verdict | None = None
    known: list[pd.DataFrame] = field(default_factory=list)
    number: int = 0
    remaining: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def take(self, size: int, rows: int, random: Random) -> Rows:
        """Draw `size` rows, none twice before all were drawn once."""
        if size > rows:
            return random.choice(rows, size)
        if len(self.remaining) < size:
            self.remaining = random.permutation(rows)
        taken, self.remaining = self.remaining[:size], self.remaining[size:]
        return taken


def build_setup(
    task: Task,
    digest: str,
    predicted: Predicted,
    pool: PredictionPool,
    params: ReferenceParams,
    size: int,
    random: Random,
) -> Setting:
    """Freeze a reference of `size` studies, by patient, and build the tables of the pool; with an
    empty pool only undrifted windows can be drawn."""
    studies, predictions = predicted
    patients = as_codes(np.array([s.patient for s in studies], object))
    rank = random.permutation(patients.max() + 1)[patients]
    accepted = [
        (i, record)
        for i in np.argsort(rank, kind="stable")
        if (record := predictions[i]) is not None
    ]
    chosen, others = accepted[:size], sorted(accepted[size:], key=lambda one: one[0])
    rejected = sum(r is None for r in predictions) * size // len(predictions)
    with tempfile.TemporaryDirectory() as folder:
        out, outcomes = Path(folder) / "reference", _outcomes(studies[i] for i, _ in chosen)
        freeze(task, digest, [record for _, record in chosen], outcomes, params, out, rejected)
        reference = load_reference(out)

    def rows(studies: Iterable[Labelled], records: list[PredictionRecord]) -> pd.DataFrame:
        quality, projections = reference.quality, reference.projections
        return records_table(records, task, quality, projections, _outcomes(studies))

    fresh = [rows((studies[i] for i, _ in others), [record for _, record in others])]
    tables, rejections = {}, {}
    if pool.studies:
        some = next(record for record in pool.plain if record is not None)
        for key, records in {PLAIN: pool.plain, **pool.corrupted}.items():
            filled = [r or p or some for r, p in zip(records, pool.plain, strict=True)]
            tables[key] = rows(pool.studies, filled)
            rejections[key] = np.array([r is None for r in records])
        fresh.append(tables[PLAIN][~rejections[PLAIN]])
    return Setting(reference, tables, rejections, pd.concat(fresh, ignore_index=True))


def _outcomes(studies: Iterable[Labelled]) -> list[Outcome]:
    """Every label."""
    return [
        Outcome(study_hash=s.study, finding=name, label=label, recorded_at=START)
        for s in studies
        for name, label in s.labels.items()
    ]


def next_window(setting: Setting, spec: WindowSpec, stream: Stream, random: Random) -> Window:
    """Draw the next window of a stream: no study twice where there are enough."""
    if spec.shift is None or spec.shift.alter is None:
        table, rejected = _unchanged(setting, spec, stream, random), 0
    else:
        table, rejected = _corrupted(setting, spec, spec.shift, stream, random)
    return _window(setting, spec, stream, table, rejected, random)


def next_family(
    setting: Setting, spec: WindowSpec, streams: Mapping[str, Stream], random: Random
) -> dict[str, LoadedWindow]:
    """Draw the next window of each site; the sites draw from the same studies in turn."""
    windows: dict[str, LoadedWindow] = {}
    remaining = next(iter(streams.values())).remaining
    for site, stream in streams.items():
        stream.remaining = remaining
        windows[site] = LoadedWindow(next_window(setting, spec, stream, random), ())
        remaining = stream.remaining
    next(iter(streams.values())).remaining = remaining
    return windows


def _window(
    setting: Setting,
    spec: WindowSpec,
    stream: Stream,
    table: pd.DataFrame,
    rejected: int,
    random: Random,
) -> Window:
    task = setting.reference.task
    table = _relabelled(_dated(table, stream.number, random), task, spec, random)
    known = labelled(table, task.finding_names)
    stream.known = [*stream.known, known][-LONGER:]
    stream.number += 1
    event = ServiceEvent(created_at=START, task=task.name, digest="", kind="rejected_image")
    return Window(
        table=table,
        labelled=known,
        longer=pd.concat(stream.known, ignore_index=True)[-MOST_LABELLED:],
        studies=len(table),
        n_labelled=len(known),
        events=[event] * rejected,
        before=stream.before,
    )


def _unchanged(setting: Setting, spec: WindowSpec, stream: Stream, random: Random) -> pd.DataFrame:
    """Draw unchanged studies; of a shifted mix by their weights, with replacement."""
    weights = _weights(setting, spec)
    n = len(setting.fresh)
    if weights is None:
        rows = stream.take(spec.window, n, random)
    else:
        rows = random.choice(n, spec.window, p=weights / weights.sum())
    return setting.fresh.iloc[rows].reset_index(drop=True)


def _corrupted(
    setting: Setting, spec: WindowSpec, shift: Shift, stream: Stream, random: Random
) -> tuple[pd.DataFrame, int]:
    """Draw studies of the pool, some of them corrupted; and the number of rejected images."""
    key = shift.name, spec.size if shift.kind == "strength" else 1.0
    rows = stream.take(spec.window, len(setting.rejected[PLAIN]), random)
    changed = random.random(len(rows)) < spec.share
    rejected = np.where(changed, setting.rejected[key][rows], setting.rejected[PLAIN][rows])
    parts = [
        setting.tables[kind].iloc[rows[(changed == is_changed) & ~rejected]]
        for kind, is_changed in ((PLAIN, False), (key, True))
    ]
    return pd.concat(parts, ignore_index=True), int(rejected.sum())


def evaluate_next(setting: Setting, spec: WindowSpec, stream: Stream, random: Random) -> Verdict:
    """Draw and evaluate the next window."""
    return verdict_on(setting, next_window(setting, spec, stream, random), stream)


def verdict_on(setting: Setting, window: Window, stream: Stream) -> Verdict:
    """Evaluate a window of a stream."""
    stream.before = evaluate_window(window, setting.reference).verdict
    return stream.before


def _weights(setting: Setting, spec: WindowSpec) -> NDArray[np.float64] | None:
    if spec.shift is None or spec.shift.kind != "mix":
        return None
    table = setting.fresh
    if spec.shift.needs == "age":
        ages = table["clinical.age"].to_numpy(float)
        standard = (ages - np.nanmean(ages)) / np.nanstd(ages)
        return np.asarray(np.exp(spec.size * np.nan_to_num(standard)), np.float64)
    first = setting.reference.task.finding_names[-1]
    positive = table[f"label.{first}"].to_numpy(float) == 1
    return np.asarray(np.exp(spec.size * positive), np.float64)


def _dated(table: pd.DataFrame, number: int, random: Random) -> pd.DataFrame:
    """Studies in a random order of time; one that was drawn twice is a study of its own."""
    order = random.permutation(len(table))
    start = START + number * timedelta(days=1)
    return table.iloc[order].assign(
        created_at=[start + timedelta(seconds=i) for i in range(len(table))],
        study=[f"{number}.{i}" for i in range(len(table))],
    )


def _relabelled(table: pd.DataFrame, task: Task, spec: WindowSpec, random: Random) -> pd.DataFrame:
    """Keep a share of the labels, and swap some of them where the concept changes."""
    known = random.random(len(table)) < spec.labels
    concept = spec.shift is not None and spec.shift.kind == "label"
    swapped = random.random(len(table)) < (spec.size if concept else 0.0)
    columns = [f"label.{name}" for name in task.finding_names]
    labels = table[columns].to_numpy(float)
    other = np.roll(labels, 1, axis=1) if task.problem == "multiclass" else 1 - labels
    labels = np.where(swapped[:, None], other, labels)
    labels[~known] = np.nan
    return table.assign(**dict(zip(columns, labels.T, strict=True)))


LONGEST = 512
"""Pixels of the longer side to which images are brought before they are corrupted, for time."""
SEED = 77
"""Seed of the synthetic population; that of the shipped task is 0."""


def labelled_studies(task: Task, paths: TaskPaths, most: int, work: Path) -> list[Labelled]:
    """Labelled studies in the order of their patients, drawn at random where there are more.

    Args:
        task: the question.
        paths: of what ingest left; not needed for the synthetic task.
        most: how many at most.
        work: folder for synthetic images.
    """
    if task.source.kind == "synthetic":
        options = {"studies": most, "seed": SEED}
        source = task.source.model_copy(update={"options": options})
        raw = read_source(task.model_copy(update={"source": source}), work, work)
        frame = to_manifest(task, raw).manifest.frame
    else:
        frame = load_manifest(paths, task).frame
        if task.split.protocol == "official":
            frame = frame[frame["part"] == "test"]
    labels = frame[[finding_column(name) for name in task.finding_names]]
    frame = frame[labels.notna().any(axis=1)]
    patients = frame["patient_id"].fillna(frame["study_id"])
    order = np.random.default_rng(SEED).permutation(np.unique(patients))
    rank = patients.map({patient: i for i, patient in enumerate(order)})
    chosen = frame.iloc[np.argsort(rank.to_numpy(), kind="stable")[:most]]
    return [_labelled(task, row) for row in chosen.to_dict("records")]


def split(studies: Sequence[Labelled], edge: int) -> tuple[Sequence[Labelled], Sequence[Labelled]]:
    """The first `edge` studies, or a few more, and the rest; no patient is in both."""
    while 0 < edge < len(studies) and studies[edge].patient == studies[edge - 1].patient:
        edge += 1
    return studies[:edge], studies[edge:]


def _labelled(task: Task, row: Mapping[Any, Any]) -> Labelled:
    labels = {
        name: int(row[finding_column(name)])
        for name in task.finding_names
        if pd.notna(row[finding_column(name)])
    }
    study = str(row["study_id"])
    patient = study if pd.isna(row["patient_id"]) else str(row["patient_id"])
    return Labelled(partial(_study, task, dict(row)), study, patient, labels)


def _study(task: Task, row: Mapping[Any, Any]) -> Study:
    known = {str(name): None if pd.isna(value) else value for name, value in row.items()}
    path = known["image_path"]
    return build_study(
        task,
        partial(_small_image, place_of(path)) if path else None,
        {name: known[clinical_column(name)] for name in task.clinical_names},
        note=known["note"],
        view=known["view"],
        study_id=str(known["study_id"]),
    )


def _small_image(place: Place) -> Radiograph:
    """Pixels alone: quality is measured later, since a shift alters them."""
    pixels = read_radiograph(place).pixels
    return Radiograph(shrink_radiograph(pixels, LONGEST))
