"""Simulation: every scenario of one task, from its bundle to one table of results."""

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
    Predicted,
    PredictionPool,
    Setting,
    WindowSpec,
    build_pool,
    build_setup,
    labelled_studies,
    predict,
    split,
)

FEWEST = 200
MOST_CORRUPTED = 350
"""Studies that are corrupted by every shift, which takes most of the time."""
FALSE_WINDOWS = (50, 200, 1000, 5000)
"""Sizes of undrifted windows; of new studies only as large as the pool allows."""
BASELINE_WINDOW = 200
SLOWLY = "scanner exposure", "note language", "laboratory unit"
Say = Callable[[str], None]


@dataclass(frozen=True)
class SimulationConfig:
    """Size of the simulation.

    Args:
        studies: labelled studies at most.
        references: frozen for shifts, each of other studies.
        streams: per shift, size and window.
        divisions: references frozen for false alarms, each against all other studies.
        undrifted: windows in a row per division, at most.
        baselines: windows per shift for Evidently's preset; 0 skips it.
    """

    studies: int = 2200
    references: int = 10
    streams: int = 40
    divisions: int = 40
    undrifted: int = 10
    baselines: int = 20


@dataclass(frozen=True)
class Baseline:
    """Share of windows in which Evidently's preset finds drift: by its verdict, in any column."""

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
    """Results of a task."""

    task: str
    studies: int
    reference: int
    pool: int
    power: tuple[Power, ...]
    false_alarms: tuple[FalseAlarms, ...]
    slow: tuple[Slow, ...]
    baselines: tuple[Baseline, ...]

    def facts(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def run(bundle: Path, paths: TaskPaths, config: SimulationConfig, say: Say) -> Results:
    """Predict every study, unchanged and corrupted, then draw and evaluate streams.

    Args:
        bundle: folder of the bundle.
        paths: of what ingest left, for the images.
        config: size of the simulation.
        say: progress callback.

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
        to_corrupt, others = split(studies, min(MOST_CORRUPTED, round(0.45 * len(studies))))
        say(f"{len(others)} studies for references, {len(to_corrupt)} to corrupt")
        records = predict(predictor, others)
        pool = build_pool(predictor, to_corrupt)
    size = min(300, round(0.8 * len(others)))
    params = ReferenceParams(window_sizes=(50, 100, 200, 500))

    def frozen(predicted: Predicted, pool: PredictionPool, number: int) -> list[Setting]:
        say(f"freezing {number} references of {size} studies")
        randoms = map(np.random.default_rng, range(number))
        return [
            build_setup(task, "scenario", predicted, pool, params, size, one) for one in randoms
        ]

    every = [*others, *to_corrupt], [*records, *pool.plain]
    undrifted = frozen(every, PredictionPool([], [], {}), config.divisions)
    say("evaluating undrifted windows")
    false = tuple(_false_alarms(undrifted, config))
    settings = frozen((others, records), pool, config.references)
    say("evaluating slow shifts")
    slowly = tuple(_slowly(settings, config))
    say("evaluating shifts")
    shifts = tuple(power(settings, config.streams))
    say("running Evidently's preset")
    baselines = tuple(_baselines(settings, config))
    return Results(task.name, len(studies), size, len(to_corrupt), shifts, false, slowly, baselines)


def _false_alarms(settings: Sequence[Setting], config: SimulationConfig) -> Iterator[FalseAlarms]:
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
            delays = slow(settings, shift, BASELINE_WINDOW, config.streams)
            yield Slow(shift.name, BASELINE_WINDOW, len(delays), float(np.median(delays)))


def _baselines(settings: Sequence[Setting], config: SimulationConfig) -> Iterator[Baseline]:
    if not config.baselines:
        return
    half, some = baseline(settings, WindowSpec(None, 0.0, BASELINE_WINDOW), config.baselines)
    yield Baseline("none", "", half, some, config.baselines)
    for shift in SHIFTS:
        if possible(shift, settings[0].reference.task) and shift.kind != "label":
            spec = WindowSpec(shift, shift.sizes[-1], BASELINE_WINDOW)
            half, some = baseline(settings, spec, config.baselines)
            yield Baseline(shift.name, "large", half, some, config.baselines)


def text_tables(results: Results) -> Iterator[str]:
    """Yield the lines of every table."""
    yield (
        f"{results.task}: {results.studies} studies; references of {results.reference}, "
        f"{results.pool} studies to draw windows from"
    )
    yield "\nUndrifted windows that alarm"
    for row in results.false_alarms:
        labelled = "half labelled" if row.labels else "unlabelled"
        yield (
            f"  {row.window:>5} {row.source:<9} {labelled:<16} {_percent(row.rate)} "
            f"[{_percent(row.low)}, {_percent(row.high)}] of {row.windows}"
        )
    yield "\nShifts: alarm in the first window, within two, within five; delay; cause named"
    for shift in results.power:
        yield (
            f"  {shift.shift:<18} {shift.size:<7} {shift.window:>5}  "
            f"{_percent(shift.within[0])} {_percent(shift.within[1])} {_percent(shift.within[-1])}"
            f"  {shift.delay:>4.0f}  {_percent(shift.right)}  {shift.blamed}"
        )
    yield "\nShifts that grow over ten windows: median windows until the alarm"
    for grown in results.slow:
        yield f"  {grown.shift:<18} {grown.window:>5}  {grown.delay:.0f}"
    yield "\nEvidently's DataDriftPreset at its defaults, windows of 200: half of the columns, any"
    for one in results.baselines:
        yield f"  {one.shift:<18} {one.size:<7} {_percent(one.half)} {_percent(one.any)}"


def _percent(share: float) -> str:
    return "   – " if share != share else f"{100 * share:>3.0f} %"
