"""Streams: windows drawn from a bank, shifted or not, judged one after another as in service."""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
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
from monitoring.window import LONGER, MOST_LABELLED

BATCH = 16
START = datetime(2026, 1, 1, tzinfo=UTC)
Said = PredictionRecord | None
"""None: the input gate refused it."""


@dataclass(frozen=True)
class Labelled:
    """A study whose labels are known.

    Args:
        load: reads it; images are not held.
        study: its id.
        patient: whose it is.
        labels: finding → 1 or 0, those that are known.
    """

    load: Callable[[], Study]
    study: str
    patient: str
    labels: dict[str, int]


@dataclass(frozen=True)
class PredictionPool:
    """What the model said.

    Args:
        studies: asked ones.
        plain: of each as it is.
        altered: (shift, strength) → of each, altered; strength 1 where the size is a share.
    """

    studies: Sequence[Labelled]
    plain: list[Said]
    altered: dict[tuple[str, float], list[Said]]

    @property
    def outcomes(self) -> list[Outcome]:
        """Every label."""
        return [
            Outcome(study_hash=s.study, finding=name, label=label, recorded_at=START)
            for s in self.studies
            for name, label in s.labels.items()
        ]


def strengths(shift: Shift) -> tuple[float, ...]:
    """Strengths at which studies have to be altered."""
    if shift.alter is None:
        return ()
    return shift.sizes if shift.kind == "strength" else (1.0,)


def ask(predictor: Predictor, studies: Sequence[Labelled]) -> list[Said]:
    """What the model says of studies as they are."""
    return [said for part in _parts(studies) for said in _asked(predictor, part, _loaded(part))[0]]


def fill(predictor: Predictor, studies: Sequence[Labelled], seed: int = 0) -> PredictionPool:
    """Ask the model about every study, as it is and altered; an image is embedded anew only where
    its pixels change."""
    task = predictor.bundle.task
    shifts = [shift for shift in SHIFTS if possible(shift, task)]
    plain: list[Said] = []
    altered: dict[tuple[str, float], list[Said]] = {
        (shift.name, size): [] for shift in shifts for size in strengths(shift)
    }
    for number, part in enumerate(_parts(studies)):
        loaded = _loaded(part)
        said, images = _asked(predictor, part, loaded)
        plain += said
        for shift in shifts:
            for size in strengths(shift):
                assert shift.alter is not None
                random = np.random.default_rng([seed, number])
                other = [shift.alter(study, size, random, task) for study in loaded]
                same = all(a.image is b.image for a, b in zip(loaded, other, strict=True))
                found = _asked(predictor, part, other, images if same else None)[0]
                altered[shift.name, size] += found
    return PredictionPool(studies, plain, altered)


def _parts(studies: Sequence[Labelled]) -> Iterator[Sequence[Labelled]]:
    return (studies[i : i + BATCH] for i in range(0, len(studies), BATCH))


def _loaded(part: Sequence[Labelled]) -> list[Study]:
    return [study.load() for study in part]


def _asked(
    predictor: Predictor,
    part: Sequence[Labelled],
    studies: list[Study],
    images: NDArray[np.float32] | None = None,
) -> tuple[list[Said], NDArray[np.float32] | None]:
    """Records, and embeddings of the images."""
    encoded = predictor.bundle.encode(studies, images)
    answers = predictor.attempt_encoded(studies, encoded)
    said = [
        record_of(
            answer,
            record_id=labelled.study,
            created_at=START,
            study=labelled.study,
            patient=labelled.patient,
        )
        if isinstance(answer, Answer)
        else None
        for answer, labelled in zip(answers, part, strict=True)
    ]
    made = encoded.embeddings.get("image")
    return said, None if made is None else made.numpy()


Random = np.random.Generator
Rows = NDArray[np.int64]
Pool = tuple[Sequence[Labelled], Sequence[Said]]
"""Studies, and what the model says of each."""
PLAIN = ("", 0.0)


@dataclass(frozen=True)
class Setting:
    """A frozen reference, and the bank's studies as its columns have them.

    Args:
        reference: frozen.
        tables: (shift, strength) → rows of the bank; of rejected images the row is of no use.
        refused: (shift, strength) → which of the rows the input gate refused.
        fresh: rows of every study that is not of the reference, none of them altered, without
            those refused; patient by patient.
    """

    reference: Reference
    tables: dict[tuple[str, float], pd.DataFrame]
    refused: dict[tuple[str, float], NDArray[np.bool_]]
    fresh: pd.DataFrame


@dataclass(frozen=True)
class WindowSpec:
    """How the windows of a stream are drawn.

    Args:
        shift: what is wrong; None for nothing.
        size: strength, share or weight.
        window: studies per window.
        labels: share of studies whose labels have come.
        altered: share of studies that an altering shift alters; None: all, or `size` where that
            is a share.
    """

    shift: Shift | None
    size: float
    window: int
    labels: float = 0.0
    altered: float | None = None

    @property
    def share(self) -> float:
        """Share of studies that are altered."""
        if self.altered is not None:
            return self.altered
        return self.size if self.shift is not None and self.shift.kind == "share" else 1.0


@dataclass
class Stream:
    """The state between windows.

    Args:
        before: the last verdict.
        known: labelled studies of the last windows.
        number: of windows so far.
        left: rows that were not drawn yet.
    """

    before: Verdict | None = None
    known: list[pd.DataFrame] = field(default_factory=list)
    number: int = 0
    left: Rows = field(default_factory=lambda: np.empty(0, np.int64))

    def take(self, size: int, rows: int, random: Random) -> Rows:
        """So many rows, none twice before all of them had their turn."""
        if size > rows:
            return random.choice(rows, size)
        if len(self.left) < size:
            self.left = random.permutation(rows)
        taken, self.left = self.left[:size], self.left[size:]
        return taken


def build_setup(
    task: Task,
    digest: str,
    pool: Pool,
    bank: PredictionPool,
    params: ReferenceParams,
    size: int,
    random: Random,
) -> Setting:
    """Freeze a reference of `size` studies of a pool, by patient, and make the bank's tables; of an
    empty bank there are none, and only undrifted windows can be drawn."""
    studies, said = pool
    patients = as_codes(np.array([s.patient for s in studies], object))
    place = random.permutation(patients.max() + 1)[patients]
    chosen = [i for i in np.argsort(place, kind="stable") if said[i] is not None][:size]
    records = [r for i in chosen if (r := said[i]) is not None]
    outcomes = PredictionPool([studies[i] for i in chosen], records, {}).outcomes
    refused = sum(r is None for r in said) * size // len(said)
    rest = sorted(set(range(len(studies))) - set(chosen))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reference"
        freeze(task, digest, records, outcomes, params, out, refused)
        reference = load_reference(out)
    kinds = {PLAIN: bank.plain, **bank.altered} if bank.studies else {}
    tables = {key: _rows(reference, bank, rows) for key, rows in kinds.items()}
    refusals = {key: np.array([r is None for r in rows]) for key, rows in kinds.items()}
    others = PredictionPool([studies[i] for i in rest], [said[i] for i in rest], {})
    fresh = [_rows(reference, others, others.plain)]
    if bank.studies:
        fresh.append(tables[PLAIN])
    there = np.array([said[i] is not None for i in rest] + [r is not None for r in bank.plain])
    return Setting(reference, tables, refusals, pd.concat(fresh, ignore_index=True)[there])


def _rows(reference: Reference, bank: PredictionPool, said: Sequence[Said]) -> pd.DataFrame:
    """One row per study of the bank; of a refused one, that of the study as it is."""
    there = [r for r in bank.plain if r is not None]
    records = [r or p or there[0] for r, p in zip(said, bank.plain, strict=True)]
    return records_table(
        records, reference.task, reference.quality, reference.projections, bank.outcomes
    )


def next_window(setting: Setting, drawn: WindowSpec, stream: Stream, random: Random) -> Window:
    """Draw the next window of a stream: no study twice where there are enough."""
    if drawn.shift is None or drawn.shift.alter is None:
        table, refused = _unaltered(setting, drawn, stream, random), 0
    else:
        table, refused = _altered(setting, drawn, drawn.shift, stream, random)
    return _window(setting, drawn, stream, table, refused, random)


def window_of_reference(
    setting: Setting, drawn: WindowSpec, stream: Stream, random: Random
) -> Window:
    """A window drawn with replacement from the reference's own studies."""
    own = setting.reference.table
    table = own.iloc[random.choice(len(own), drawn.window)].reset_index(drop=True)
    return _window(setting, drawn, stream, table, 0, random)


def _window(
    setting: Setting,
    drawn: WindowSpec,
    stream: Stream,
    table: pd.DataFrame,
    refused: int,
    random: Random,
) -> Window:
    task = setting.reference.task
    table = _relabelled(_dated(table, stream.number, random), task, drawn, random)
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
        events=[event] * refused,
        before=stream.before,
    )


def _unaltered(setting: Setting, drawn: WindowSpec, stream: Stream, random: Random) -> pd.DataFrame:
    """Studies as they are; of a shifted mix by their weights, with replacement."""
    weights = _weights(setting, drawn)
    n = len(setting.fresh)
    if weights is None:
        rows = stream.take(drawn.window, n, random)
    else:
        rows = random.choice(n, drawn.window, p=weights / weights.sum())
    return setting.fresh.iloc[rows].reset_index(drop=True)


def _altered(
    setting: Setting, drawn: WindowSpec, shift: Shift, stream: Stream, random: Random
) -> tuple[pd.DataFrame, int]:
    """Studies of the bank, some of them altered, and how many images were refused."""
    key = shift.name, drawn.size if shift.kind == "strength" else 1.0
    rows = stream.take(drawn.window, len(setting.refused[PLAIN]), random)
    altered = random.random(len(rows)) < drawn.share
    refused = np.where(altered, setting.refused[key][rows], setting.refused[PLAIN][rows])
    parts = [
        setting.tables[kind].iloc[rows[(altered == is_altered) & ~refused]]
        for kind, is_altered in ((PLAIN, False), (key, True))
    ]
    return pd.concat(parts, ignore_index=True), int(refused.sum())


def judged(setting: Setting, drawn: WindowSpec, stream: Stream, random: Random) -> Verdict:
    """Draw and judge the next window."""
    return verdict_on(setting, next_window(setting, drawn, stream, random), stream)


def verdict_on(setting: Setting, window: Window, stream: Stream) -> Verdict:
    """Judge a window of a stream."""
    stream.before = evaluate_window(window, setting.reference).verdict
    return stream.before


def _weights(setting: Setting, drawn: WindowSpec) -> NDArray[np.float64] | None:
    if drawn.shift is None or drawn.shift.kind != "mix":
        return None
    table = setting.fresh
    if drawn.shift.needs == "age":
        ages = table["clinical.age"].to_numpy(float)
        standard = (ages - np.nanmean(ages)) / np.nanstd(ages)
        return np.asarray(np.exp(drawn.size * np.nan_to_num(standard)), np.float64)
    first = setting.reference.task.finding_names[-1]
    there = table[f"label.{first}"].to_numpy(float) == 1
    return np.asarray(np.exp(drawn.size * there), np.float64)


def _dated(table: pd.DataFrame, number: int, random: Random) -> pd.DataFrame:
    """Studies in a random order of time; one that was drawn twice is a study of its own."""
    order = random.permutation(len(table))
    start = START + number * timedelta(days=1)
    return table.iloc[order].assign(
        created_at=[start + timedelta(seconds=i) for i in range(len(table))],
        study=[f"{number}.{i}" for i in range(len(table))],
    )


def _relabelled(table: pd.DataFrame, task: Task, drawn: WindowSpec, random: Random) -> pd.DataFrame:
    """Labels that have come, a share of them swapped where the concept changes."""
    come = random.random(len(table)) < drawn.labels
    concept = drawn.shift is not None and drawn.shift.kind == "label"
    swapped = random.random(len(table)) < (drawn.size if concept else 0.0)
    columns = [f"label.{name}" for name in task.finding_names]
    labels = table[columns].to_numpy(float)
    other = np.roll(labels, 1, axis=1) if task.problem == "multiclass" else 1 - labels
    labels = np.where(swapped[:, None], other, labels)
    labels[~come] = np.nan
    return table.assign(**dict(zip(columns, labels.T, strict=True)))


LONGEST = 512
"""Pixels of the longer side to which images are brought before they are altered, for time."""
SEED = 77
"""Of the made-up population; that of the shipped task is 0."""


def labelled_studies(task: Task, paths: TaskPaths, most: int, work: Path) -> list[Labelled]:
    """Labelled studies in the order of their patients, drawn at random where there are more.

    Args:
        task: the question.
        paths: of what ingest left; not needed for the synthetic task.
        most: how many at most.
        work: folder for made-up images.
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
    place = patients.map({patient: i for i, patient in enumerate(order)})
    chosen = frame.iloc[np.argsort(place.to_numpy(), kind="stable")[:most]]
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
        partial(_small_image, Path(path)) if path else None,
        {name: known[clinical_column(name)] for name in task.clinical_names},
        note=known["note"],
        view=known["view"],
        study_id=str(known["study_id"]),
    )


def _small_image(path: Path) -> Radiograph:
    """Pixels alone: quality is measured later, since a shift alters them."""
    pixels = read_radiograph(path).pixels
    return Radiograph(shrink_radiograph(pixels, LONGEST))
