"""Window: read the studies of a report from the log; a large window is sampled at random.

Of the whole window only time, study and position of the records are read. The records themselves
are read for the compared studies alone, which bounds time and memory for any size of window.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.errors import ManifestError
from cxr_mm.core.record import Outcome
from cxr_mm.core.types import plural
from cxr_mm.core.verdict import Verdict
from cxr_mm.data.tables import read_table
from cxr_mm.prediction_log import PredictionLog
from monitoring.concept_drift import labelled
from monitoring.data_drift import LARGEST_WINDOW
from monitoring.reference import Reference
from monitoring.table import newest_per_study, records_table
from monitoring.verdict import Window

LABELS = {"1": 1, "1.0": 1, "0": 0, "0.0": 0}


def read_outcomes(
    path: Path, findings: Sequence[str], hash_id: Callable[[str], str]
) -> list[Outcome]:
    """Read labels from a CSV: 1, 0, or an empty cell for unknown.

    Args:
        path: the CSV; other columns are ignored.
        findings: names of the task's findings; at least one must be a column.
        hash_id: `PredictionLog.hash_id`.

    Raises:
        ManifestError: the file cannot be read, a column is missing, a study is named twice or
            not at all, or a label is neither 1, 0 nor empty.
    """
    frame = read_table(path)
    columns = [name for name in findings if name in frame.columns]
    if "study_id" not in frame.columns or not columns:
        raise ManifestError(
            f"it has the columns {', '.join(frame.columns)}",
            field=str(path),
            remedy=f"Give study_id and at least one of {', '.join(findings)}",
        )
    ids = frame["study_id"]
    if (wrong := ids.isna() | ids.duplicated()).any():
        row = int(wrong.to_numpy().argmax()) + 2
        raise ManifestError("line names no study, or one twice", field=f"{path}:{row}")
    now, outcomes = datetime.now(UTC), []
    for name in columns:
        for line, (study, cell) in enumerate(zip(ids, frame[name], strict=True), 2):
            if cell and cell not in LABELS:
                raise ManifestError(
                    f"{cell[:40]!r} is no label",
                    field=f"{path}:{line}: {name}",
                    remedy="Use 1, 0 or an empty cell",
                )
            if cell:
                hashed, label = hash_id(study), LABELS[cell]
                outcomes.append(
                    Outcome(study_hash=hashed, finding=name, label=label, recorded_at=now)
                )
    return outcomes


MOST_STUDIES = LARGEST_WINDOW
"""Largest sample of a window. A reference has at most 2,000 studies, so that more would add
little."""
MOST_LABELLED = LARGEST_WINDOW
"""Most labelled studies for the concept tests; the newest are used."""
AT_ONCE = 100_000
"""Studies that are looked up among the labelled ones at a time."""
LONGER = 5
"""Windows that the longer window spans, in which small changes of the concept add up."""


@dataclass(frozen=True)
class LoadedWindow:
    """A window, and notes for the reader of its report."""

    window: Window
    notes: tuple[str, ...]

    def after(self, before: Verdict | None) -> Self:
        """The same with the verdict of the window before."""
        return replace(self, window=replace(self.window, before=before))


def load_window(
    log: PredictionLog,
    frozen: Reference,
    since: datetime | None,
    until: datetime,
    labels: Path | None = None,
    source: str | None = None,
    site: str | None = None,
) -> LoadedWindow:
    """Read a window of the reference's model.

    Args:
        log: opened, with its secret where `labels` are given.
        frozen: the reference.
        since, until: first moment (included; None: the beginning) and end (not included).
        labels: CSV of outcomes that count in this report only, above those in the log.
        source: where studies came from, `page`, `rest` or `pacs`; None for all.
        site: whose studies are meant; None for all.

    Raises:
        LogError: the log cannot be read.
        ManifestError: the labels cannot be read.
    """
    index = log.window_index(frozen.task.name, since, until, frozen.digest, source, site)
    given = read_outcomes(labels, frozen.task.finding_names, log.hash_id) if labels else []
    marked = log.labelled_studies(frozen.task.name, longer_start(since, until), until, site)
    marked = np.union1d(marked, np.array([outcome.study_hash for outcome in given], "S64"))
    newest = newest_rows(index.study_hash)
    rng = np.random.default_rng(frozen.params.seed)
    compared = _at_most(newest, rng)
    table = _table(log, frozen, index.position[compared], given)
    own = newest[are_among(index.study_hash[newest], marked)]
    known = table
    if len(compared) < len(newest):
        known = _table(log, frozen, index.position[own[-MOST_LABELLED:]], given)
    known = labelled(known, frozen.task.finding_names)
    longer = _longer(log, frozen, since, until, marked, given, known, (source, site))
    events = log.read_events(frozen.task.name, since, until, site)
    notes = _notes(frozen, index.others, len(index.position), len(newest), len(compared))
    if source is not None:
        notes = (
            f"Studies of the source {source} alone; the figures of the service are of all",
            *notes,
        )
    window = Window(
        table=table,
        labelled=known,
        longer=longer,
        studies=len(newest),
        n_labelled=len(own),
        events=[
            event
            for event in events
            if event.digest == frozen.digest and source in (None, event.source)
        ],
    )
    return LoadedWindow(window, notes)


def longer_start(since: datetime | None, until: datetime) -> datetime | None:
    """First moment of the longer window; None where a window begins with the log."""
    return None if since is None else until - LONGER * (until - since)


def _longer(
    log: PredictionLog,
    frozen: Reference,
    since: datetime | None,
    until: datetime,
    marked: NDArray[np.bytes_],
    given: Sequence[Outcome],
    own: pd.DataFrame,
    part: tuple[str | None, str | None],
) -> pd.DataFrame:
    """Labelled studies of this window and the windows before it; empty without its own.

    `marked` are the labelled studies, `given` the labels that are not in the log; `part` is the
    source and the site.
    """
    start = longer_start(since, until)
    if start is None or own.empty:
        return own.iloc[:0]
    index = log.window_index(frozen.task.name, start, since, frozen.digest, *part)
    rows = np.flatnonzero(are_among(index.study_hash, marked))
    newest = rows[newest_rows(index.study_hash[rows])][-MOST_LABELLED:]
    before = _table(log, frozen, index.position[newest], given)
    before = labelled(before, frozen.task.finding_names)
    both = pd.concat([before, own], ignore_index=True) if len(before) else own
    return newest_per_study(both)[-MOST_LABELLED:]


def _table(
    log: PredictionLog,
    frozen: Reference,
    positions: NDArray[np.int64],
    given: Sequence[Outcome],
) -> pd.DataFrame:
    """Records at positions with their labels, those of the log before those given."""
    records = list(log.read_positions(positions.tolist()))
    outcomes = [*log.read_outcomes(record.study_hash for record in records), *given]
    return newest_per_study(
        records_table(records, frozen.task, frozen.quality, frozen.projections, outcomes)
    )


def newest_rows(studies: NDArray[Any]) -> NDArray[np.int64]:
    """Positions of the last record of each study, in order of time like the index."""
    order = np.argsort(studies, kind="stable")
    ordered = studies[order]  # np.unique would copy them three times
    is_last = np.ones(len(order), bool)
    is_last[:-1] = ordered[1:] != ordered[:-1]
    return np.sort(order[is_last])


def are_among(studies: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Whether each study is one of those known, which ascend."""
    found = np.zeros(len(studies), bool)
    if len(known):
        for start in range(0, len(studies), AT_ONCE):  # np.isin would sort a copy of all of them
            part = studies[start : start + AT_ONCE]
            place = np.minimum(np.searchsorted(known, part), len(known) - 1)
            found[start : start + AT_ONCE] = known[place] == part
    return found


def _at_most(positions: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    if len(positions) <= MOST_STUDIES:
        return positions
    return np.sort(rng.choice(positions, MOST_STUDIES, replace=False))


def _notes(
    frozen: Reference, others: dict[str, int], records: int, studies: int, compared: int
) -> tuple[str, ...]:
    notes = []
    if others:
        ranked = sorted(others.items(), key=lambda item: -item[1])
        named = ", ".join(f"{digest[:12]} ({n})" for digest, n in ranked)
        notes.append(
            f"{plural(sum(others.values()), 'prediction')} of other models left out: {named}"
        )
    if studies < records:
        notes.append(
            f"{plural(records - studies, 'prediction')} of a study asked before; its newest counts"
        )
    if compared < studies:
        notes.append(f"{compared:,} of {studies:,} studies, drawn at random, are compared")
    if frozen.task.synthetic:
        notes.append("The reference is synthetic: made-up studies, no patients")
    return tuple(notes)
