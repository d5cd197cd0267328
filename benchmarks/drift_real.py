"""Part `drift-real`: a real change of patients and site, adults of NIH against children, both ways.

The reference is of one collection's films, the windows of the other's, as when a model is taken to
another hospital; nothing but the film is given, since what one of them lacks would tell them apart
at once. `its own`: windows of the collection that the reference is of.
"""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.figures import RUNS_VARIABLE
from benchmarks.rounds import device
from benchmarks.rows import Row
from cxr_mm.contracts.study import Study
from cxr_mm.data.tasks import load_task
from cxr_mm.inference import load_predictor
from cxr_mm.params import ReferenceParams
from cxr_mm.paths import TaskPaths
from monitoring.scenarios.bank import Bank, Labelled, ask
from monitoring.scenarios.shifts import Shift
from monitoring.scenarios.streams import Drawn, Setting, Stream, judged, settle
from monitoring.scenarios.studies import labelled_studies

COMMAND = "make benchmark PART=drift-real"
WAYS = (("effusion", "pneumonia"), ("pneumonia", "effusion"))
MOST, REFERENCE, STREAMS = 600, 300, 20
WINDOWS = 50, 200


@dataclass(frozen=True)
class _FilmOnly:
    """Loads a study without what is known beside its film."""

    load: Callable[[], Study]

    def __call__(self) -> Study:
        return replace(self.load(), clinical={}, note=None)


def measure() -> list[Row]:
    """Rows of both ways."""
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as work:
        for ours, theirs in WAYS:
            rows += _way(ours, theirs, root, Path(work))
    return rows


def _way(ours: str, theirs: str, root: Path, work: Path) -> list[Row]:
    own, other = (
        labelled_studies(load_task(name), TaskPaths(name, root), MOST, work)
        for name in (ours, theirs)
    )
    own = [replace(s, load=_FilmOnly(s.load)) for s in own]
    films = [replace(s, load=_FilmOnly(s.load), labels={}) for s in other]
    setting, shift = _setting(ours, theirs, root, own, films)
    drawn = [d for w in WINDOWS for d in (Drawn(shift, 1.0, w), Drawn(None, 0.0, w))]
    return [_row(setting, ours, each, theirs) for each in drawn]


def _setting(
    ours: str, theirs: str, root: Path, own: Sequence[Labelled], films: Sequence[Labelled]
) -> tuple[Setting, Shift]:
    predictor = load_predictor(TaskPaths(ours, root).bundle)
    said, foreign = ask(predictor, own), ask(predictor, films)
    there = [(s, r) for s, r in zip(own, said, strict=True) if r is not None]
    shift = Shift(f"films of {theirs}", "share", (1.0, 1.0, 1.0), (), alter=_never)
    n = min(len(there), len(films))
    bank = Bank(
        [s for s, _ in there[:n]], [r for _, r in there[:n]], {(shift.name, 1.0): foreign[:n]}
    )
    pool = [s for s, _ in there], [r for _, r in there]
    rng = np.random.default_rng(0)
    task = predictor.bundle.task
    return settle(task, "real", pool, bank, ReferenceParams(), REFERENCE, rng), shift


def _never(study: Study, *_: object) -> Study:
    """The altered studies are there already."""
    return study


def _row(setting: Setting, ours: str, drawn: Drawn, theirs: str) -> Row:
    alarms, blamed = 0, Counter[str]()
    for number in range(STREAMS):
        verdict = judged(setting, drawn, Stream(), np.random.default_rng(number))
        alarms += verdict.status == "alarm"
        if verdict.status == "alarm":
            blamed[verdict.reasons[0].name] += 1
    first = f", first {blamed.most_common(1)[0][0]}" if blamed else ""
    films = f"films of {theirs}{first}" if drawn.shift else "its own"
    return Row(
        table="drift-real",
        task=ours,
        row=f"windows of {drawn.window}, {films}",
        metric="alarm",
        value=alarms / STREAMS,
        n=STREAMS,
        device=device(),
        command=COMMAND,
    )
