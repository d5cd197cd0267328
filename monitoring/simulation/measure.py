"""Measure: how often streams alarm, how soon and for what, and how often undrifted windows do."""

import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.reference import Reference
from monitoring.simulation.shifts import SHIFTS, SIZES, Shift, blamed_rightly, possible
from monitoring.simulation.streams import (
    Setting,
    Stream,
    WindowSpec,
    judged,
    next_window,
    verdict_on,
    window_of_reference,
)

os.environ.setdefault("DO_NOT_TRACK", "1")


with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset


@dataclass(frozen=True)
class PresetSays:
    """What the preset says of a window.

    Args:
        half: at least half of the columns drifted, its own verdict.
        any: some column drifted.
    """

    half: bool
    any: bool


def preset_says(table: pd.DataFrame, reference: Reference) -> PresetSays:
    """Run the preset on a window; of one without a study it has nothing to say."""
    columns = [
        c
        for c in reference.columns
        if table[c.name].notna().any() and reference.table[c.name].notna().any()
    ]
    if not columns:
        return PresetSays(half=False, any=False)
    definition = DataDefinition(
        numerical_columns=[c.name for c in columns if c.kind == "number"],
        categorical_columns=[c.name for c in columns if c.kind == "category"],
    )
    names = [c.name for c in columns]
    current, before = (
        Dataset.from_pandas(t[names].reset_index(drop=True), data_definition=definition)
        for t in (table, reference.table)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = Report([DataDriftPreset()]).run(current, before).dict()
    drifted = next(m for m in found["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    value = drifted["value"]
    return PresetSays(half=value["share"] >= 0.5, any=value["count"] > 0)


WINDOWS = (50, 200, 1000)
WITHIN = 5
"""Windows after a shift that are looked at."""
RESAMPLES = 2000
LABELS = 0.5
"""Share of studies whose labels come, where the concept is what shifts."""
SLOW = 10
"""Windows over which a slow shift grows to its full size."""


@dataclass(frozen=True)
class Power:
    """How one shift of one size is found in windows of one size.

    Args:
        shift, size: which.
        window: studies per window.
        streams: how many were drawn.
        within: share of streams that had alarmed by window 1, 2 … WITHIN.
        delay: median windows until the alarm, of the streams that alarmed; NaN where none did.
        right: share of first alarms that blamed the shift; NaN where none alarmed.
        blamed: the name that was blamed most often.
    """

    shift: str
    size: str
    window: int
    streams: int
    within: tuple[float, ...]
    delay: float
    right: float
    blamed: str


@dataclass(frozen=True)
class FalseAlarms:
    """How often windows without any drift alarm.

    Args:
        drawn: `reference` (from the reference itself, with replacement) or `new` studies.
        window: studies per window.
        labels: share of labels.
        windows, alarms: how many were judged and alarmed.
        rate, low, high: share with its 95 % interval, references resampled.
    """

    drawn: str
    window: int
    labels: float
    windows: int
    alarms: int
    rate: float
    low: float
    high: float


def power(
    settings: Sequence[Setting], streams: int, windows: Sequence[int] = WINDOWS, seed: int = 0
) -> Iterator[Power]:
    """Every possible shift at every size and window size; the streams are spread over settings."""
    task = settings[0].reference.task
    for shift in SHIFTS:
        if not possible(shift, task):
            continue
        for name, size in zip(SIZES, shift.sizes, strict=True):
            for window in windows:
                sampled = WindowSpec(shift, size, window, LABELS if shift.kind == "label" else 0.0)
                yield _power(settings, sampled, name, streams, seed)


def _power(
    settings: Sequence[Setting], drawn: WindowSpec, size: str, streams: int, seed: int
) -> Power:
    assert drawn.shift is not None
    firsts: list[int] = []
    blamed: list[str] = []
    right = 0
    for number in range(streams):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        stream = Stream()
        muted = WindowSpec(None, 0.0, drawn.window, drawn.labels)
        if drawn.labels:  # labels of undrifted windows stand before, as they would in service
            for _ in range(2):
                next_window(setting, muted, stream, random)
        for place in range(WITHIN):
            verdict = judged(setting, drawn, stream, random)
            if verdict.status == "alarm":
                first = verdict.reasons[0]
                firsts.append(place + 1)
                blamed.append(first.name if first.drift == "data" else "concept")
                task = setting.reference.task
                right += blamed_rightly(drawn.shift, task, first.name, first.drift)
                break
    by = tuple(sum(f <= k for f in firsts) / streams for k in range(1, WITHIN + 1))
    return Power(
        shift=drawn.shift.name,
        size=size,
        window=drawn.window,
        streams=streams,
        within=by,
        delay=float(np.median(firsts)) if firsts else np.nan,
        right=right / len(firsts) if firsts else np.nan,
        blamed=max(set(blamed), key=blamed.count) if blamed else "",
    )


def slow(
    settings: Sequence[Setting], shift: Shift, window: int, streams: int, seed: int = 0
) -> list[int]:
    """Windows until the alarm where the share of studies that shift at full strength grows over
    SLOW windows; one number per stream, 2 × SLOW + 1 where none came."""
    found = []
    for number in range(streams):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        stream, first = Stream(), 2 * SLOW + 1
        for place in range(2 * SLOW):
            sampled = WindowSpec(
                shift, shift.sizes[-1], window, altered=min(1.0, (place + 1) / SLOW)
            )
            if judged(setting, sampled, stream, random).status == "alarm":
                first = place + 1
                break
        found.append(first)
    return found


def false_alarms(
    settings: Sequence[Setting],
    window: int,
    labels: float,
    most: int,
    from_reference: bool,
    seed: int = 0,
) -> FalseAlarms:
    """Judge undrifted windows in a row, at most so many per reference; of new studies as many as
    there are without any study twice."""
    rates, alarms, windows = [], 0, 0
    for place, setting in enumerate(settings):
        random, stream = np.random.default_rng([seed, place]), Stream()
        sampled = WindowSpec(None, 0.0, window, labels)
        draw = window_of_reference if from_reference else next_window
        each = most if from_reference else min(most, len(setting.fresh) // window)
        result = [verdict_on(setting, draw(setting, sampled, stream, random), stream).status
                for _ in range(each)]  # fmt: skip
        rates.append(result.count("alarm") / each)
        alarms, windows = alarms + result.count("alarm"), windows + each
    low, high = _interval(np.array(rates), seed)
    return FalseAlarms(
        drawn="reference" if from_reference else "new",
        window=window,
        labels=labels,
        windows=windows,
        alarms=alarms,
        rate=alarms / windows,
        low=low,
        high=high,
    )


def baseline(
    settings: Sequence[Setting], drawn: WindowSpec, windows: int, seed: int = 0
) -> tuple[float, float]:
    """Shares of windows of which Evidently's preset says drift: its verdict, and any column."""
    result: list[PresetSays] = []
    for number in range(windows):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        table = next_window(setting, drawn, Stream(), random).table
        result.append(preset_says(table, setting.reference))
    return _mean(result, lambda s: s.half), _mean(result, lambda s: s.any)


def _mean(said: Sequence[PresetSays], what: Callable[[PresetSays], bool]) -> float:
    return float(np.mean([what(s) for s in said]))


def _interval(rates: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of the mean over references: windows of one reference hang together."""
    random = np.random.default_rng(seed)
    means = random.choice(rates, (RESAMPLES, len(rates))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
