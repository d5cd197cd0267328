"""Simulation: every scenario of one task, from its bundle to one table of results."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.inference.predictor import load_predictor
from monitoring.simulation.measure import (
    LABELS,
    Baseline,
    FalseAlarms,
    Power,
    Slow,
    baselines,
    false_alarms,
    growing,
    power,
)
from monitoring.simulation.streams import (
    Labelled,
    Predicted,
    PredictionPool,
    Setting,
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
"""Sizes of undrifted windows, as far as the pool has as many studies."""
NO_POOL = PredictionPool([], [], {})
"""Of streams whose windows are not to drift."""
PARAMS = ReferenceParams(window_sizes=(50, 100, 200, 500))
TITLES = {
    "false_alarms": "Undrifted windows that alarm, on average and by reference",
    "power": "Shifts: share of streams with an alarm within one to five windows; delay in windows; "
    "share of alarms that name the cause",
    "slow": "Shifts that grow over ten windows: median windows until the alarm",
    "baselines": "Evidently's DataDriftPreset at its defaults: half of the columns, any",
}
"""Fields of the results → titles of their tables."""


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
class Results:
    """Results of a task.

    Args:
        task: its name.
        studies: labelled studies.
        reference: studies of each reference.
        pool: studies that were corrupted.
    """

    task: str
    studies: int
    reference: int
    pool: int
    power: tuple[Power, ...]
    false_alarms: tuple[FalseAlarms, ...]
    slow: tuple[Slow, ...]
    baselines: tuple[Baseline, ...]


def run(
    bundle: Path, paths: TaskPaths, config: SimulationConfig, say: Callable[[str], None]
) -> Results:
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
    with _enough_studies(task, paths, config) as studies:
        to_corrupt, others = split(studies, _corrupted(studies))
        say(f"{len(others)} studies for references, {len(to_corrupt)} to corrupt")
        records = predict(predictor, others)
        pool = build_pool(predictor, to_corrupt)
    size = _reference_size(len(others))

    def frozen(predicted: Predicted, pool: PredictionPool, number: int) -> list[Setting]:
        say(f"freezing {number} references of {size} studies")
        randoms = map(np.random.default_rng, range(number))
        return [
            build_setup(task, "scenario", predicted, pool, PARAMS, size, one) for one in randoms
        ]

    every = [*others, *to_corrupt], [*records, *pool.plain]
    false = _false_alarms(frozen(every, NO_POOL, config.divisions), config, say)
    settings = frozen((others, records), pool, config.references)
    say("evaluating slow shifts")
    slowly = tuple(growing(settings, config.streams))
    say("evaluating shifts")
    shifts = tuple(power(settings, config.streams))
    say("running Evidently's preset")
    preset = tuple(baselines(settings, config.baselines))
    return Results(task.name, len(studies), size, len(to_corrupt), shifts, false, slowly, preset)


def run_undrifted(
    bundle: Path, paths: TaskPaths, config: SimulationConfig, say: Callable[[str], None]
) -> tuple[FalseAlarms, ...]:
    """Predict every study, then draw and evaluate undrifted windows alone.

    Raises:
        StageError: as of `run`.
    """
    predictor = load_predictor(bundle)
    task = predictor.bundle.task
    with _enough_studies(task, paths, config) as studies:
        predicted = studies, predict(predictor, studies)
    size = _reference_size(len(studies) - _corrupted(studies))
    settings = [
        build_setup(
            task, "scenario", predicted, NO_POOL, PARAMS, size, np.random.default_rng(number)
        )
        for number in range(config.divisions)
    ]
    return _false_alarms(settings, config, say)


def _corrupted(studies: Sequence[Labelled]) -> int:
    """Studies that are set aside to be corrupted."""
    return min(MOST_CORRUPTED, round(0.45 * len(studies)))


def _reference_size(others: int) -> int:
    """Studies of each reference, as large where no study is corrupted."""
    return min(300, round(0.8 * others))


@contextmanager
def _enough_studies(
    task: Task, paths: TaskPaths, config: SimulationConfig
) -> Iterator[list[Labelled]]:
    """Labelled studies, while their images are there."""
    with tempfile.TemporaryDirectory() as work:
        studies = labelled_studies(task, paths, config.studies, Path(work))
        if len(studies) < FEWEST:
            raise StageError(
                f"{len(studies)} labelled studies; scenarios need {FEWEST}",
                field=task.name,
                remedy="Choose a task with more studies",
            )
        yield studies


def _false_alarms(
    settings: Sequence[Setting], config: SimulationConfig, say: Callable[[str], None]
) -> tuple[FalseAlarms, ...]:
    """Of every window size that the studies outside the references suffice for."""
    say("evaluating undrifted windows")
    fewest = min((len(setting.fresh) for setting in settings), default=0)
    return tuple(
        false_alarms(settings, window, labels, config.undrifted)
        for labels in (0.0, LABELS)
        for window in FALSE_WINDOWS
        if window <= fewest
    )


def text_tables(results: Results) -> Iterator[str]:
    """Yield every table as text, under its title."""
    yield (
        f"{results.task}: {results.studies} studies; references of {results.reference}, "
        f"{results.pool} studies to draw windows from"
    )
    for name, title in TITLES.items():
        rows = pd.DataFrame([asdict(row) for row in getattr(results, name)])
        if rows.empty:
            continue
        if "within" in rows:
            within = rows.pop("within").apply(pd.Series)
            rows[[f"within {number + 1}" for number in within]] = within
        yield f"\n{title}\n{rows.to_string(index=False, float_format='{:.2f}'.format)}"
