"""Measurements: detection rate, delay and attribution of shifts, and the false-alarm rate."""

import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from monitoring.reference import Reference
from monitoring.simulation.shifts import SHIFTS, SIZES, Shift, identifies, possible
from monitoring.simulation.streams import (
    Setting,
    Stream,
    WindowSpec,
    evaluate_next,
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
class PresetVerdict:
    """Verdict of Evidently's preset on a window.

    Args:
        half: at least half of the columns drifted, its own verdict.
        any: some column drifted.
    """

    half: bool
    any: bool


def preset_verdict(table: pd.DataFrame, reference: Reference) -> PresetVerdict:
    """Run the preset on a window; no drift where no column has values."""
    columns = [
        c
        for c in reference.columns
        if table[c.name].notna().any() and reference.table[c.name].notna().any()
    ]
    if not columns:
        return PresetVerdict(half=False, any=False)
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
        report = Report([DataDriftPreset()]).run(current, before).dict()
    drifted = next(m for m in report["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    value = drifted["value"]
    return PresetVerdict(half=value["share"] >= 0.5, any=value["count"] > 0)


WINDOWS = (50, 200, 1000)
WITHIN = 5
"""Windows after a shift that count."""
RESAMPLES = 2000
LABELS = 0.5
"""Share of labelled studies where the concept shifts."""
SLOW = 10
"""Windows over which a slow shift grows to its full size."""


@dataclass(frozen=True)
class Power:
    """Detection of one shift of one size in windows of one size.

    Args:
        shift, size: names.
        window: studies per window.
        streams: number of streams.
        within: share of streams with an alarm by window 1, 2 … WITHIN.
        delay: median windows until the alarm, of the streams that alarmed; NaN where none did.
        right: share of first alarms whose first reason names the shift; NaN without alarms.
        blamed: most frequent first reason.
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
    """False alarms of undrifted windows.

    Args:
        source: `reference` (its own studies, with replacement) or `new` studies.
        window: studies per window.
        labels: share of labelled studies.
        windows, alarms: evaluated windows, and alarms among them.
        rate, low, high: share with its 95 % interval, references resampled.
    """

    source: str
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
                spec = WindowSpec(shift, size, window, LABELS if shift.kind == "label" else 0.0)
                yield _power(settings, spec, name, streams, seed)


def _power(
    settings: Sequence[Setting], spec: WindowSpec, size: str, streams: int, seed: int
) -> Power:
    assert spec.shift is not None
    firsts: list[int] = []
    blamed: list[str] = []
    right = 0
    for number in range(streams):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        stream = Stream()
        undrifted = WindowSpec(None, 0.0, spec.window, spec.labels)
        if spec.labels:  # undrifted labelled windows come first, as in service
            for _ in range(2):
                next_window(setting, undrifted, stream, random)
        for i in range(WITHIN):
            verdict = evaluate_next(setting, spec, stream, random)
            if verdict.status == "alarm":
                first = verdict.reasons[0]
                firsts.append(i + 1)
                blamed.append(first.name if first.drift == "data" else "concept")
                task = setting.reference.task
                right += identifies(spec.shift, task, first.name, first.drift)
                break
    by = tuple(sum(f <= k for f in firsts) / streams for k in range(1, WITHIN + 1))
    return Power(
        shift=spec.shift.name,
        size=size,
        window=spec.window,
        streams=streams,
        within=by,
        delay=float(np.median(firsts)) if firsts else np.nan,
        right=right / len(firsts) if firsts else np.nan,
        blamed=max(set(blamed), key=blamed.count) if blamed else "",
    )


def slow(
    settings: Sequence[Setting], shift: Shift, window: int, streams: int, seed: int = 0
) -> list[int]:
    """Windows until the alarm while the share of studies that shift at full strength grows over
    SLOW windows; one number per stream, 2 × SLOW + 1 without an alarm."""
    delays = []
    for number in range(streams):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        stream, first = Stream(), 2 * SLOW + 1
        for i in range(2 * SLOW):
            spec = WindowSpec(shift, shift.sizes[-1], window, corrupted=min(1.0, (i + 1) / SLOW))
            if evaluate_next(setting, spec, stream, random).status == "alarm":
                first = i + 1
                break
        delays.append(first)
    return delays


def false_alarms(
    settings: Sequence[Setting],
    window: int,
    labels: float,
    most: int,
    from_reference: bool,
    seed: int = 0,
) -> FalseAlarms:
    """Evaluate undrifted windows in a row, `most` per reference; of new studies no study twice."""
    rates, alarms, windows = [], 0, 0
    for number, setting in enumerate(settings):
        random, stream = np.random.default_rng([seed, number]), Stream()
        spec = WindowSpec(None, 0.0, window, labels)
        draw = window_of_reference if from_reference else next_window
        each = most if from_reference else min(most, len(setting.fresh) // window)
        statuses = [verdict_on(setting, draw(setting, spec, stream, random), stream).status
                    for _ in range(each)]  # fmt: skip
        rates.append(statuses.count("alarm") / each)
        alarms, windows = alarms + statuses.count("alarm"), windows + each
    low, high = _interval(np.array(rates), seed)
    return FalseAlarms(
        source="reference" if from_reference else "new",
        window=window,
        labels=labels,
        windows=windows,
        alarms=alarms,
        rate=alarms / windows,
        low=low,
        high=high,
    )


def baseline(
    settings: Sequence[Setting], spec: WindowSpec, windows: int, seed: int = 0
) -> tuple[float, float]:
    """Shares of windows in which Evidently's preset finds drift: by its verdict, in any column."""
    verdicts: list[PresetVerdict] = []
    for number in range(windows):
        setting = settings[number % len(settings)]
        random = np.random.default_rng([seed, number])
        table = next_window(setting, spec, Stream(), random).table
        verdicts.append(preset_verdict(table, setting.reference))
    half, some = np.mean([(v.half, v.any) for v in verdicts], axis=0)
    return float(half), float(some)


def _interval(rates: NDArray[np.float64], seed: int) -> tuple[float, float]:
    """95 % interval of the mean over references: windows of one reference are dependent."""
    random = np.random.default_rng(seed)
    means = random.choice(rates, (RESAMPLES, len(rates))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)
