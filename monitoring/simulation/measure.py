"""Measurements: detection rate, delay and attribution of shifts, and the false-alarm rate."""

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.core.verdict import Verdict
from monitoring.reference import Reference
from monitoring.simulation.shifts import SHIFTS, SIZES, Shift, identifies, possible
from monitoring.simulation.streams import (
    Random,
    Setting,
    Stream,
    WindowSpec,
    evaluate_next,
    next_family,
    next_window,
)
from monitoring.sites.comparison import compare, sums_of
from monitoring.sites.family import evaluate_sites

os.environ.setdefault("DO_NOT_TRACK", "1")

WINDOWS = (50, 200, 1000)
WITHIN = 5
"""Windows after a shift that count."""
RESAMPLES = 2000
LABELS = 0.5
"""Share of labelled studies where the concept shifts."""
SLOW = 10
"""Windows over which a slow shift grows to its full size."""
GROWING = "scanner exposure", "note language", "laboratory unit"
"""Shifts that are measured as slow ones, too."""
MEDIUM_WINDOW = 200
"""Studies per window of slow shifts and of Evidently's preset."""


@dataclass(frozen=True)
class Power:
    """Detection of one shift of one size in windows of one size.

    Args:
        shift, size: names.
        window: studies per window.
        streams: number of streams.
        within: share of streams with an alarm by window 1, 2 … WITHIN.
        alarms: streams that alarmed within WITHIN windows.
        delay: median windows until the alarm, of the streams that alarmed; NaN where none did.
        right: share of first alarms whose first reason names the shift; NaN without alarms.
        blamed: most frequent first reason.
    """

    shift: str
    size: str
    window: int
    streams: int
    within: tuple[float, ...]
    alarms: int
    delay: float
    right: float
    blamed: str


@dataclass(frozen=True)
class Slow:
    """Median windows until the alarm while a shift grows over SLOW windows."""

    shift: str
    window: int
    streams: int
    delay: float


@dataclass(frozen=True)
class FalseAlarms:
    """False alarms of undrifted windows of new studies.

    Args:
        window: studies per window.
        labels: share of labelled studies.
        windows, alarms: evaluated windows, and alarms among them.
        rate, low, high: share with its 95 % interval, references resampled.
        median, ninetieth, worst: the share by reference: middle one, 90th percentile, highest.
    """

    window: int
    labels: float
    windows: int
    alarms: int
    rate: float
    low: float
    high: float
    median: float
    ninetieth: float
    worst: float


@dataclass(frozen=True)
class Baseline:
    """Share of windows in which Evidently's preset finds drift.

    Args:
        shift, size: names; `none` without a shift.
        half: at least half of the columns drifted, its own verdict.
        any: some column drifted.
        windows: how many.
    """

    shift: str
    size: str
    half: float
    any: float
    windows: int


def possible_shifts(settings: Sequence[Setting]) -> list[Shift]:
    """Shifts of an input that the task has."""
    return [shift for shift in SHIFTS if possible(shift, settings[0].reference.task)]


def power(settings: Sequence[Setting], streams: int) -> Iterator[Power]:
    """Every possible shift at every size and window size; the streams are spread over settings."""
    for shift in possible_shifts(settings):
        for name, size in zip(SIZES, shift.sizes, strict=True):
            for window in WINDOWS:
                spec = WindowSpec(shift, size, window, LABELS if shift.kind == "label" else 0.0)
                yield _power(settings, spec, shift, name, streams)


def _power(
    settings: Sequence[Setting], spec: WindowSpec, shift: Shift, size: str, streams: int
) -> Power:
    firsts: list[int] = []
    blamed: Counter[str] = Counter()
    right = 0
    for setting, random in _spread(settings, streams):
        stream, undrifted = Stream(), WindowSpec(None, 0.0, spec.window, spec.labels)
        if spec.labels:  # undrifted labelled windows come first, as in service
            for _ in range(2):
                next_window(setting, undrifted, stream, random)
        number, verdict = _first_alarm(setting, repeat(spec, WITHIN), stream, random)
        if verdict is not None:
            first = verdict.reasons[0]
            firsts.append(number)
            blamed[first.name if first.drift == "data" else "concept"] += 1
            right += identifies(shift, setting.reference.task, first.name, first.drift)
    return Power(
        shift=shift.name,
        size=size,
        window=spec.window,
        streams=streams,
        within=tuple(sum(f <= k for f in firsts) / streams for k in range(1, WITHIN + 1)),
        alarms=len(firsts),
        delay=float(np.median(firsts)) if firsts else np.nan,
        right=right / len(firsts) if firsts else np.nan,
        blamed=blamed.most_common(1)[0][0] if blamed else "",
    )


def growing(settings: Sequence[Setting], streams: int) -> Iterator[Slow]:
    """Every slow shift that is possible."""
    for shift in possible_shifts(settings):
        if shift.name in GROWING:
            delays = slow(settings, shift, MEDIUM_WINDOW, streams)
            yield Slow(shift.name, MEDIUM_WINDOW, streams, float(np.median(delays)))


def slow(settings: Sequence[Setting], shift: Shift, window: int, streams: int) -> list[int]:
    """Windows until the alarm while the share of studies that shift at full strength grows over
    SLOW windows; one number per stream, 2 × SLOW + 1 without an alarm."""
    size = shift.sizes[-1]
    specs = [
        WindowSpec(shift, size, window, corrupted=min(1.0, (i + 1) / SLOW)) for i in range(2 * SLOW)
    ]
    return [
        _first_alarm(setting, specs, Stream(), random)[0]
        for setting, random in _spread(settings, streams)
    ]


def _spread(settings: Sequence[Setting], streams: int) -> Iterator[tuple[Setting, Random]]:
    """The setting and the source of randomness of each stream."""
    for number in range(streams):
        yield settings[number % len(settings)], np.random.default_rng([0, number])


def _first_alarm(
    setting: Setting, specs: Iterable[WindowSpec], stream: Stream, random: Random
) -> tuple[int, Verdict | None]:
    """Number, from 1, and verdict of the first window that alarms; one more than there are, and
    None, where none does."""
    number = 0
    for spec in specs:
        number += 1
        verdict = evaluate_next(setting, spec, stream, random)
        if verdict.status == "alarm":
            return number, verdict
    return number + 1, None


def false_alarms(settings: Sequence[Setting], window: int, labels: float, most: int) -> FalseAlarms:
    """Evaluate `most` undrifted windows in a row per reference.

    Windows are drawn from the studies outside the reference; no study comes twice before all came
    once. The rate differs by reference, whose own deviation stays the same in every window.
    """
    spec, rates = WindowSpec(None, 0.0, window, labels), np.zeros(len(settings))
    for i, (setting, random) in enumerate(_spread(settings, len(settings))):
        stream = Stream()
        statuses = [evaluate_next(setting, spec, stream, random).status for _ in range(most)]
        rates[i] = statuses.count("alarm") / most
    low, high = _interval(rates)
    return FalseAlarms(
        window=window,
        labels=labels,
        windows=most * len(rates),
        alarms=round(most * float(rates.sum())),
        rate=float(rates.mean()),
        low=low,
        high=high,
        median=float(np.median(rates)),
        ninetieth=float(np.quantile(rates, 0.9)),
        worst=float(rates.max()),
    )


@dataclass(frozen=True)
class FamilyErrors:
    """Errors of windows of several sites, none of which drifted.

    Args:
        sites: number of them.
        window: studies of each in a window.
        labels: share of labelled studies.
        windows: evaluated windows of all sites.
        alarm, alarm_interval: share of windows in which any site alarms, with its 95 % interval,
            references resampled.
        shown, shown_interval: share of windows in which any difference between sites is shown.
    """

    sites: int
    window: int
    labels: float
    windows: int
    alarm: float
    alarm_interval: tuple[float, float]
    shown: float
    shown_interval: tuple[float, float]


def family_errors(
    settings: Sequence[Setting], sites: int, window: int, labels: float, most: int
) -> FamilyErrors:
    """Evaluate `most` windows in a row of several sites per reference; all draw the same studies.

    No study comes twice before all came once.
    """
    spec = WindowSpec(None, 0.0, window, labels)
    alarms, shown = np.zeros(len(settings)), np.zeros(len(settings))
    for i, (setting, random) in enumerate(_spread(settings, len(settings))):
        streams = {f"site {number}": Stream() for number in range(sites)}
        for _ in range(most):
            windows = next_family(setting, spec, streams, random)
            found = evaluate_sites(windows, setting.reference)
            for site, report in found.reports.items():
                streams[site].before = report.verdict
            tables = {site: loaded.window.table for site, loaded in windows.items()}
            sums = {site: sums_of(table, setting.reference) for site, table in tables.items()}
            alarms[i] += found.verdict.status == "alarm"
            shown[i] += any(one.is_shown for one in compare(sums))
    alarms, shown = alarms / most, shown / most
    return FamilyErrors(
        sites=sites,
        window=window,
        labels=labels,
        windows=most * len(settings),
        alarm=float(alarms.mean()),
        alarm_interval=_interval(alarms),
        shown=float(shown.mean()),
        shown_interval=_interval(shown),
    )


def _interval(rates: NDArray[np.float64]) -> tuple[float, float]:
    """95 % interval of the mean over references: windows of one reference are dependent."""
    means = np.random.default_rng(0).choice(rates, (RESAMPLES, len(rates))).mean(axis=1)
    low, high = np.quantile(means, (0.025, 0.975))
    return float(low), float(high)


def baselines(settings: Sequence[Setting], windows: int) -> Iterator[Baseline]:
    """Evidently's preset without a shift and with each, at full size; none for 0 windows."""
    shifts = [shift for shift in possible_shifts(settings) if shift.kind != "label"]
    for shift in (None, *shifts) if windows else ():
        spec = WindowSpec(shift, shift.sizes[-1] if shift else 0.0, MEDIUM_WINDOW)
        half, some = baseline(settings, spec, windows)
        name, size = (shift.name, "large") if shift else ("none", "")
        yield Baseline(name, size, half, some, windows)


def baseline(settings: Sequence[Setting], spec: WindowSpec, windows: int) -> tuple[float, float]:
    """Shares of windows in which the preset finds drift: in half of the columns, in any."""
    verdicts = [
        preset_drift(next_window(setting, spec, Stream(), random).table, setting.reference)
        for setting, random in _spread(settings, windows)
    ]
    half, some = np.mean(verdicts, axis=0)
    return float(half), float(some)


def preset_drift(table: pd.DataFrame, reference: Reference) -> tuple[bool, bool]:
    """Run the preset on a window: whether half of the columns drifted, its verdict, and whether any
    did; no drift where no column has values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

    tables = table, reference.table
    columns = [c for c in reference.columns if all(t[c.name].notna().any() for t in tables)]
    if not columns:
        return False, False
    definition = DataDefinition(
        numerical_columns=[c.name for c in columns if c.kind == "number"],
        categorical_columns=[c.name for c in columns if c.kind == "category"],
    )
    names = [c.name for c in columns]
    current, before = (
        Dataset.from_pandas(t[names].reset_index(drop=True), data_definition=definition)
        for t in tables
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        report = Report([DataDriftPreset()]).run(current, before).dict()
    metric = next(m for m in report["metrics"] if "DriftedColumnsCount" in m["metric_name"])
    return metric["value"]["share"] >= 0.5, metric["value"]["count"] > 0
