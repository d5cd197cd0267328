"""Run: every scenario of one task, from its bundle to one table of results."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_mm.errors import StageError
from cxr_mm.inference import load_predictor
from cxr_mm.params import ReferenceParams
from cxr_mm.paths import TaskPaths
from monitoring.scenarios.bank import Bank, ask, fill
from monitoring.scenarios.measure import (
    LABELS,
    FalseAlarms,
    Power,
    false_alarms,
    power,
    rival,
    slow,
)
from monitoring.scenarios.shifts import SHIFTS, possible
from monitoring.scenarios.streams import Drawn, Pool, Setting, settle
from monitoring.scenarios.studies import labelled_studies, split

FEWEST = 200
MOST_ALTERED = 350
"""Studies that are altered in every way, which takes most of the time."""
FALSE_WINDOWS = (50, 200, 1000, 5000)
"""Of the reference's own studies; of new ones as large as the bank allows."""
RIVAL_WINDOW = 200
SLOWLY = "scanner exposure", "note language", "laboratory unit"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Effort:
    """How much is measured.

    Args:
        studies: at most.
        references: frozen for shifts, each of other studies of the pool.
        streams: per shift, size and window.
        divisions: references frozen for false alarms, each against all studies that are left.
        undrifted: windows in a row per division, at most.
        rivals: windows per shift that Evidently's preset judges; 0 leaves it out.
    """

    studies: int = 2200
    references: int = 10
    streams: int = 40
    divisions: int = 40
    undrifted: int = 10
    rivals: int = 20


@dataclass(frozen=True)
class Rival:
    """What Evidently's preset says: of which share of windows, by its own verdict and by any
    column."""

    shift: str
    size: str
    half: float
    any: float
    windows: int


@dataclass(frozen=True)
class Slow:
    """Median windows until the alarm while a shift grows over ten windows."""

    shift: str
    window: int
    streams: int
    delay: float


@dataclass(frozen=True)
class Results:
    """All of a task."""

    task: str
    studies: int
    reference: int
    bank: int
    power: tuple[Power, ...]
    false_alarms: tuple[FalseAlarms, ...]
    slow: tuple[Slow, ...]
    rivals: tuple[Rival, ...]

    def facts(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(bundle: Path, paths: TaskPaths, effort: Effort, say: Say) -> Results:
    """Ask the model about every study in every guise, then draw and judge streams.

    Args:
        bundle: folder of the bundle.
        paths: of what ingest left, for the films.
        effort: how much.
        say: is told what is under way.

    Raises:
        StageError: too few labelled studies.
    """
    predictor = load_predictor(bundle)
    task = predictor.bundle.task
    with tempfile.TemporaryDirectory() as work:
        studies = labelled_studies(task, paths, effort.studies, Path(work))
        if len(studies) < FEWEST:
            raise StageError(
                f"{len(studies)} labelled studies; scenarios need {FEWEST}",
                field=task.name,
                remedy="Choose a task with more studies",
            )
        rest, pool = split(studies, min(MOST_ALTERED, round(0.45 * len(studies))))
        say(f"{len(pool)} studies for references, {len(rest)} to be altered")
        said = ask(predictor, pool)
        bank = fill(predictor, rest)
    size = min(300, round(0.8 * len(pool)))
    params = ReferenceParams(window_sizes=(50, 100, 200, 500))

    def frozen(asked: Pool, bank: Bank, number: int) -> list[Setting]:
        say(f"freezing {number} references of {size} studies")
        randoms = map(np.random.default_rng, range(number))
        return [settle(task, "scenario", asked, bank, params, size, one) for one in randoms]

    every = [*pool, *rest], [*said, *bank.plain]
    undrifted = frozen(every, Bank([], [], {}), effort.divisions)
    say("judging undrifted windows")
    quiet = tuple(_quiet(undrifted, effort))
    settings = frozen((pool, said), bank, effort.references)
    say("judging slow shifts")
    slowly = tuple(_slowly(settings, effort))
    say("judging shifts")
    found = tuple(power(settings, effort.streams))
    say("asking Evidently's preset")
    rivals = tuple(_rivals(settings, effort))
    return Results(task.name, len(studies), size, len(rest), found, quiet, slowly, rivals)


def _quiet(settings: Sequence[Setting], effort: Effort) -> Iterator[FalseAlarms]:
    for labels in (0.0, LABELS):
        for window in FALSE_WINDOWS:
            own = settings[: effort.references]
            yield false_alarms(own, window, labels, effort.undrifted, from_reference=True)
            if window <= min(len(setting.fresh) for setting in settings):
                yield false_alarms(settings, window, labels, effort.undrifted, from_reference=False)


def _slowly(settings: Sequence[Setting], effort: Effort) -> Iterator[Slow]:
    task = settings[0].reference.task
    for shift in SHIFTS:
        if shift.name in SLOWLY and possible(shift, task):
            found = slow(settings, shift, RIVAL_WINDOW, effort.streams)
            yield Slow(shift.name, RIVAL_WINDOW, len(found), float(np.median(found)))


def _rivals(settings: Sequence[Setting], effort: Effort) -> Iterator[Rival]:
    if not effort.rivals:
        return
    half, some = rival(settings, Drawn(None, 0.0, RIVAL_WINDOW), effort.rivals)
    yield Rival("none", "", half, some, effort.rivals)
    for shift in SHIFTS:
        if possible(shift, settings[0].reference.task) and shift.kind != "label":
            drawn = Drawn(shift, shift.sizes[-1], RIVAL_WINDOW)
            half, some = rival(settings, drawn, effort.rivals)
            yield Rival(shift.name, "large", half, some, effort.rivals)
