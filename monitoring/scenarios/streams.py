"""Streams: windows drawn from a bank, shifted or not, judged one after another as in service."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.contracts.record import ServiceEvent
from cxr_mm.contracts.task import Task
from cxr_mm.contracts.verdict import Verdict
from cxr_mm.params import ReferenceParams
from monitoring.concept import labelled
from monitoring.gather import LONGER, MOST_LABELLED
from monitoring.judge import Window, judge
from monitoring.reference import Reference, freeze, load_reference
from monitoring.scenarios.bank import START, Bank, Labelled, Said
from monitoring.scenarios.shifts import Shift
from monitoring.table import records_table
from monitoring.windows import as_codes

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
        tables: (shift, strength) → rows of the bank; of refused films the row is of no use.
        refused: (shift, strength) → which of the rows the film gate refused.
        fresh: rows of every study that is not of the reference, none of them altered, without
            those refused; patient by patient.
    """

    reference: Reference
    tables: dict[tuple[str, float], pd.DataFrame]
    refused: dict[tuple[str, float], NDArray[np.bool_]]
    fresh: pd.DataFrame


@dataclass(frozen=True)
class Drawn:
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


def settle(
    task: Task,
    digest: str,
    pool: Pool,
    bank: Bank,
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
    outcomes = Bank([studies[i] for i in chosen], records, {}).outcomes
    refused = sum(r is None for r in said) * size // len(said)
    rest = sorted(set(range(len(studies))) - set(chosen))
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "reference"
        freeze(task, digest, records, outcomes, params, out, refused)
        reference = load_reference(out)
    kinds = {PLAIN: bank.plain, **bank.altered} if bank.studies else {}
    tables = {key: _rows(reference, bank, rows) for key, rows in kinds.items()}
    refusals = {key: np.array([r is None for r in rows]) for key, rows in kinds.items()}
    others = Bank([studies[i] for i in rest], [said[i] for i in rest], {})
    fresh = [_rows(reference, others, others.plain)]
    if bank.studies:
        fresh.append(tables[PLAIN])
    there = np.array([said[i] is not None for i in rest] + [r is not None for r in bank.plain])
    return Setting(reference, tables, refusals, pd.concat(fresh, ignore_index=True)[there])


def _rows(reference: Reference, bank: Bank, said: Sequence[Said]) -> pd.DataFrame:
    """One row per study of the bank; of a refused one, that of the study as it is."""
    there = [r for r in bank.plain if r is not None]
    records = [r or p or there[0] for r, p in zip(said, bank.plain, strict=True)]
    return records_table(
        records, reference.task, reference.quality, reference.projections, bank.outcomes
    )


def next_window(setting: Setting, drawn: Drawn, stream: Stream, random: Random) -> Window:
    """Draw the next window of a stream: no study twice where there are enough."""
    if drawn.shift is None or drawn.shift.alter is None:
        table, refused = _unaltered(setting, drawn, stream, random), 0
    else:
        table, refused = _altered(setting, drawn, drawn.shift, stream, random)
    return _window(setting, drawn, stream, table, refused, random)


def window_of_reference(setting: Setting, drawn: Drawn, stream: Stream, random: Random) -> Window:
    """A window drawn with replacement from the reference's own studies."""
    own = setting.reference.table
    table = own.iloc[random.choice(len(own), drawn.window)].reset_index(drop=True)
    return _window(setting, drawn, stream, table, 0, random)


def _window(
    setting: Setting,
    drawn: Drawn,
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
    event = ServiceEvent(created_at=START, task=task.name, digest="", kind="refused_film")
    return Window(
        table=table,
        labelled=known,
        longer=pd.concat(stream.known, ignore_index=True)[-MOST_LABELLED:],
        studies=len(table),
        n_labelled=len(known),
        events=[event] * refused,
        before=stream.before,
    )


def _unaltered(setting: Setting, drawn: Drawn, stream: Stream, random: Random) -> pd.DataFrame:
    """Studies as they are; of a shifted mix by their weights, with replacement."""
    weights = _weights(setting, drawn)
    n = len(setting.fresh)
    if weights is None:
        rows = stream.take(drawn.window, n, random)
    else:
        rows = random.choice(n, drawn.window, p=weights / weights.sum())
    return setting.fresh.iloc[rows].reset_index(drop=True)


def _altered(
    setting: Setting, drawn: Drawn, shift: Shift, stream: Stream, random: Random
) -> tuple[pd.DataFrame, int]:
    """Studies of the bank, some of them altered, and how many films were refused."""
    key = shift.name, drawn.size if shift.kind == "strength" else 1.0
    rows = stream.take(drawn.window, len(setting.refused[PLAIN]), random)
    altered = random.random(len(rows)) < drawn.share
    refused = np.where(altered, setting.refused[key][rows], setting.refused[PLAIN][rows])
    parts = [
        setting.tables[kind].iloc[rows[(altered == is_altered) & ~refused]]
        for kind, is_altered in ((PLAIN, False), (key, True))
    ]
    return pd.concat(parts, ignore_index=True), int(refused.sum())


def judged(setting: Setting, drawn: Drawn, stream: Stream, random: Random) -> Verdict:
    """Draw and judge the next window."""
    return verdict_on(setting, next_window(setting, drawn, stream, random), stream)


def verdict_on(setting: Setting, window: Window, stream: Stream) -> Verdict:
    """Judge a window of a stream."""
    stream.before = judge(window, setting.reference).verdict
    return stream.before


def _weights(setting: Setting, drawn: Drawn) -> NDArray[np.float64] | None:
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


def _relabelled(table: pd.DataFrame, task: Task, drawn: Drawn, random: Random) -> pd.DataFrame:
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
