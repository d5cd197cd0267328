"""Run: every scenario of one task, from its bundle to one table of results."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.inference.predictor import load_predictor
from monitoring.simulation.measure import (
    LABELS,
    FalseAlarms,
    Power,
    baseline,
    false_alarms,
    power,
    slow,
)
from monitoring.simulation.shifts import SHIFTS, possible
from monitoring.simulation.streams import (
    Pool,
    PredictionPool,
    Setting,
    WindowSpec,
    ask,
    build_setup,
    fill,
    labelled_studies,
    split,
)

FEWEST = 200
MOST_ALTERED = 350
"""Studies that are altered in every way, which takes most of the time."""
FALSE_WINDOWS = (50, 200, 1000, 5000)
"""Of the reference's own studies; of new ones as large as the bank allows."""
RIVAL_WINDOW = 200
SLOWLY = "scanner exposure", "note language", "laboratory unit"
Say = Callable[[str], None]


@dataclass(frozen=True)
class SimulationConfig:
    """How much is measured.

    Args:
        studies: at most.
        references: frozen for shifts, each of other studies of the pool.
        streams: per shift, size and window.
        divisions: references frozen for false alarms, each against all studies that are left.
        undrifted: windows in a row per division, at most.
        baselines: windows per shift that Evidently's preset judges; 0 leaves it out.
    """

    studies: int = 2200
    references: int = 10
    streams: int = 40
    divisions: int = 40
    undrifted: int = 10
    baselines: int = 20


@dataclass(frozen=True)
class Baseline:
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
    baselines: tuple[Baseline, ...]

    def facts(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(bundle: Path, paths: TaskPaths, config: SimulationConfig, say: Say) -> Results:
    """Ask the model about every study in every guise, then draw and judge streams.

    Args:
        bundle: folder of the bundle.
        paths: of what ingest left, for the images.
        config: how much.
        say: is told what is under way.

    Raises:
        StageError: too few labelled studies.
    """
    predictor = load_predictor(bundle)
    task = predictor.bundle.task
    with tempfile.TemporaryDirectory() as work:
        studies = labelled_studies(task, paths, config.studies, Path(work))
        if len(studies) < FEWEST:
            raise StageError(
                f"{len(studies)} labelled studies; scenarios need {FEWEST}",
                field=task.name,
                remedy="Choose a task with more studies",
            )
        rest, pool = split(studies, min(MOST_ALTERED, round(0.45 * len(studies))))
        say(f"{len(pool)} studies for references, {len(rest)} to be altered")
        result = ask(predictor, pool)
        bank = fill(predictor, rest)
    size = min(300, round(0.8 * len(pool)))
    params = ReferenceParams(window_sizes=(50, 100, 200, 500))

    def frozen(asked: Pool, bank: PredictionPool, number: int) -> list[Setting]:
        say(f"freezing {number} references of {size} studies")
        randoms = map(np.random.default_rng, range(number))
        return [build_setup(task, "scenario", asked, bank, params, size, one) for one in randoms]

    every = [*pool, *rest], [*result, *bank.plain]
    undrifted = frozen(every, PredictionPool([], [], {}), config.divisions)
    say("judging undrifted windows")
    muted = tuple(_quiet(undrifted, config))
    settings = frozen((pool, result), bank, config.references)
    say("judging slow shifts")
    slowly = tuple(_slowly(settings, config))
    say("judging shifts")
    found = tuple(power(settings, config.streams))
    say("asking Evidently's preset")
    baselines = tuple(_baselines(settings, config))
    return Results(task.name, len(studies), size, len(rest), found, muted, slowly, baselines)


def _quiet(settings: Sequence[Setting], config: SimulationConfig) -> Iterator[FalseAlarms]:
    for labels in (0.0, LABELS):
        for window in FALSE_WINDOWS:
            own = settings[: config.references]
            yield false_alarms(own, window, labels, config.undrifted, from_reference=True)
            if window <= min(len(setting.fresh) for setting in settings):
                yield false_alarms(settings, window, labels, config.undrifted, from_reference=False)


def _slowly(settings: Sequence[Setting], config: SimulationConfig) -> Iterator[Slow]:
    task = settings[0].reference.task
    for shift in SHIFTS:
        if shift.name in SLOWLY and possible(shift, task):
            found = slow(settings, shift, RIVAL_WINDOW, config.streams)
            yield Slow(shift.name, RIVAL_WINDOW, len(found), float(np.median(found)))


def _baselines(settings: Sequence[Setting], config: SimulationConfig) -> Iterator[Baseline]:
    if not config.baselines:
        return
    half, some = baseline(settings, WindowSpec(None, 0.0, RIVAL_WINDOW), config.baselines)
    yield Baseline("none", "", half, some, config.baselines)
    for shift in SHIFTS:
        if possible(shift, settings[0].reference.task) and shift.kind != "label":
            sampled = WindowSpec(shift, shift.sizes[-1], RIVAL_WINDOW)
            half, some = baseline(settings, sampled, config.baselines)
            yield Baseline(shift.name, "large", half, some, config.baselines)


def text_tables(results: Results) -> Iterator[str]:
    """Lines of every table."""
    yield (
        f"{results.task}: {results.studies} studies; references of {results.reference}, "
        f"{results.bank} studies to draw windows from"
    )
    yield "\nUndrifted windows that alarm"
    for muted in results.false_alarms:
        labelled = "labelled by half" if muted.labels else "unlabelled"
        yield (
            f"  {muted.window:>5} {muted.drawn:<9} {labelled:<16} {_percent(muted.rate)} "
            f"[{_percent(muted.low)}, {_percent(muted.high)}] of {muted.windows}"
        )
    yield "\nShifts: alarm in the first window, within two, within five; delay; rightly blamed"
    for found in results.power:
        yield (
            f"  {found.shift:<18} {found.size:<7} {found.window:>5}  "
            f"{_percent(found.within[0])} {_percent(found.within[1])} {_percent(found.within[-1])}"
            f"  {found.delay:>4.0f}  {_percent(found.right)}  {found.blamed}"
        )
    yield "\nShifts that grow over ten windows: median windows until the alarm"
    for grown in results.slow:
        yield f"  {grown.shift:<18} {grown.window:>5}  {grown.delay:.0f}"
    yield "\nEvidently's DataDriftPreset at its defaults, windows of 200: half of the columns, any"
    for row in results.baselines:
        yield f"  {row.shift:<18} {row.size:<7} {_percent(row.half)} {_percent(row.any)}"


def _percent(share: float) -> str:
    return "   – " if share != share else f"{100 * share:>3.0f} %"
