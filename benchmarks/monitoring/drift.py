"""Part `drift`: monitoring on simulated streams, with and without a shift."""

import multiprocessing
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness.outputs import paths_of
from benchmarks.harness.parts import Row
from benchmarks.monitoring.scale import DIGEST, TASK, synthetic_records
from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.record import PredictionRecord
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task
from cxr_mm.core.types import plural
from cxr_mm.evaluation.resampling import exact_interval
from cxr_mm.inference.predictor import load_predictor
from monitoring.simulation.measure import LABELS, FalseAlarms, FamilyErrors, family_errors
from monitoring.simulation.run import (
    NO_POOL,
    PARAMS,
    Results,
    SimulationConfig,
    run,
    run_undrifted,
)
from monitoring.simulation.shifts import Shift
from monitoring.simulation.streams import (
    Labelled,
    PredictionPool,
    Setting,
    Stream,
    WindowSpec,
    build_setup,
    evaluate_next,
    labelled_studies,
    predict,
)

MUST_FALSE = 0.05
SUDDEN, CONCEPT, RIGHTLY = 0.95, 0.90, 0.80
WINDOW = 200
"""Studies in each of the windows that have targets."""


def measure(paths: TaskPaths) -> list[Row]:
    """Rows of every shift of a task."""
    results = run(paths.bundle, paths, replace(SimulationConfig(), divisions=0), print)
    return [*_power(results), *_slow(results), *_baselines(results)]


def measure_undrifted(paths: TaskPaths) -> list[Row]:
    """Rows of windows of a task without a shift."""
    found = run_undrifted(paths.bundle, paths, SimulationConfig(), print)
    return list(_false(paths.task, found))


def _false(task: str, every: Iterable[FalseAlarms]) -> Iterator[Row]:
    """How often windows without drift alarm, on average and by reference."""
    for found in every:
        labels = ", half labelled" if found.labels else ""
        facts = {"row": f"windows of {found.window:,} of new studies{labels}", "n": found.windows}
        facts |= {"task": task, "ceiling": True}
        ci95 = (found.low, found.high)
        yield Row(metric="false alarms", value=found.rate, ci95=ci95, must=MUST_FALSE, **facts)
        for metric, value in (
            ("median reference", found.median),
            ("90th percentile of references", found.ninetieth),
            ("worst reference", found.worst),
        ):
            yield Row(metric=f"false alarms, {metric}", value=value, **facts)


def _power(results: Results) -> Iterator[Row]:
    """How often, how soon and with which first reason streams with a shift alarm."""
    for found in results.power:
        concept, wanted = found.shift == "concept", found.size == "large" and found.window == WINDOW
        count, within, must = (5, -1, CONCEPT) if concept else (2, 1, SUDDEN)
        name = f"{found.shift}, {found.size}, windows of {found.window:,}"
        facts = {"task": results.task, "row": name, "n": found.streams}
        alarmed = share(found.within[within], found.streams)
        bound = must if wanted else None
        yield Row(metric=f"alarm within {count} windows", **alarmed, must=bound, **facts)
        yield Row(metric="first window", **share(found.within[0], found.streams), **facts)
        if np.isfinite(found.delay):
            yield Row(metric="delay", value=found.delay, **facts)
            rightly = share(found.right, found.alarms)
            yield Row(metric="rightly blamed", **rightly, must=RIGHTLY if wanted else None, **facts)


def share(value: float, trials: int) -> dict[str, Any]:
    """Fields of a share of independent trials, with its exact interval."""
    return {"value": value, "ci95": exact_interval(value, trials)}


def _slow(results: Results) -> Iterator[Row]:
    for grown in results.slow:
        name = f"{grown.shift}, growing over 10 windows of {grown.window}"
        yield Row(task=results.task, row=name, metric="delay", value=grown.delay, n=grown.streams)


def _baselines(results: Results) -> Iterator[Row]:
    for found in results.baselines:
        name = f"{found.shift}{', ' if found.size else ''}{found.size}"
        facts = {"table": "drift-preset", "task": results.task, "row": name, "n": found.windows}
        yield Row(metric="half of the columns", value=found.half, **facts)
        yield Row(metric="any column", value=found.any, **facts)


FAMILIES = ((1, 0.0), (10, 0.0), (10, LABELS))
"""Sites, and shares of labelled studies."""
STUDIES, DIVISIONS, IN_A_ROW, OF_SITE = 3000, 120, 5, 100
SHAPES: Sequence[Callable[[float], float]] = (
    float,
    lambda value: float(np.exp(value)),
    lambda value: max(0.0, value - 1.5),
    float,
)
LOST = (0.02, 0.1, 0.05, 0.9)
"""What becomes of a normal value in each feature of four, and how many are missing."""


def measure_sites() -> list[Row]:
    """Rows of windows of several sites, none of which drifted."""
    with multiprocessing.get_context("spawn").Pool(os.cpu_count()) as pool:
        found = pool.starmap(_family, FAMILIES, chunksize=1)
    return [row for one in found for row in _family_rows(one)]


def _family(sites: int, labels: float) -> FamilyErrors:
    random = np.random.default_rng(0)
    records = [_uneven(record, random) for record in synthetic_records(STUDIES, 0)]
    studies = [_synthetic(record, random) for record in records]
    settings = [
        build_setup(
            TASK, DIGEST, (studies, records), NO_POOL, PARAMS, REFERENCE, np.random.default_rng(i)
        )
        for i in range(DIVISIONS)
    ]
    return family_errors(settings, sites, OF_SITE, labels, IN_A_ROW)


def _uneven(record: PredictionRecord, random: np.random.Generator) -> PredictionRecord:
    """The record with clinical features as tables have them: of four, one is normal, one skewed to
    the right, one mostly zero, one mostly missing; each may be missing."""
    values = {
        name: None if random.random() < LOST[i % 4] else SHAPES[i % 4](float(value or 0))
        for i, (name, value) in enumerate(record.clinical.items())
    }
    return record.model_copy(update={"clinical": values})


def _synthetic(record: PredictionRecord, random: np.random.Generator) -> Labelled:
    """A study of its own patient whose label follows the probability; it is never loaded."""
    labels = {name: int(random.random() < p) for name, p in record.probabilities.items()}
    return Labelled(_no_study, record.study_hash, record.study_hash, labels)


def _no_study() -> Study:
    raise NotImplementedError


def _family_rows(found: FamilyErrors) -> Iterator[Row]:
    half = ", half labelled" if found.labels else ""
    name = f"{plural(found.sites, 'site')} of {plural(found.window, 'study')} each{half}"
    facts: dict[str, Any] = {"task": "made-up records", "row": name, "n": found.windows}
    facts |= {"must": MUST_FALSE, "ceiling": True}
    yield Row(metric="any site alarms", value=found.alarm, ci95=found.alarm_interval, **facts)
    if found.sites > 1:
        ci95 = found.shown_interval
        yield Row(metric="any difference is shown", value=found.shown, ci95=ci95, **facts)


WAYS = (("effusion", "pneumonia"), ("pneumonia", "effusion"))
MOST, REFERENCE, STREAMS = 600, 300, 20
WINDOWS = 50, 200


def measure_real() -> list[Row]:
    """Rows of both ways."""
    with tempfile.TemporaryDirectory() as work:
        return [row for ours, theirs in WAYS for row in _way(ours, theirs, Path(work))]


def _way(ours: str, theirs: str, work: Path) -> list[Row]:
    own, other = (
        labelled_studies(load_task(name), paths_of(name), MOST, work) for name in (ours, theirs)
    )
    own = [replace(s, load=partial(_image_only, s.load)) for s in own]
    images = [replace(s, load=partial(_image_only, s.load), labels={}) for s in other]
    setting, shift = _setting(ours, theirs, own, images)
    specs = [d for w in WINDOWS for d in (WindowSpec(shift, 1.0, w), WindowSpec(None, 0.0, w))]
    return [_real_row(setting, ours, each, theirs) for each in specs]


def _setting(
    ours: str, theirs: str, own: Sequence[Labelled], images: Sequence[Labelled]
) -> tuple[Setting, Shift]:
    predictor = load_predictor(paths_of(ours).bundle)
    result, ood = predict(predictor, own), predict(predictor, images)
    present = [(s, r) for s, r in zip(own, result, strict=True) if r is not None]
    shift = Shift(f"images of {theirs}", "share", (1.0, 1.0, 1.0), (), alter=_unaltered)
    n = min(len(present), len(images))
    shifted = PredictionPool(
        [s for s, _ in present[:n]], [r for _, r in present[:n]], {(shift.name, 1.0): ood[:n]}
    )
    pool = [s for s, _ in present], [r for _, r in present]
    rng = np.random.default_rng(0)
    task = predictor.bundle.task
    return build_setup(task, "real", pool, shifted, ReferenceParams(), REFERENCE, rng), shift


def _image_only(load: Callable[[], Study]) -> Study:
    return replace(load(), clinical={}, note=None)


def _unaltered(study: Study, *_: object) -> Study:
    """The study itself: the other images exist already."""
    return study


def _real_row(setting: Setting, ours: str, spec: WindowSpec, theirs: str) -> Row:
    alarms, blamed = 0, Counter[str]()
    for number in range(STREAMS):
        verdict = evaluate_next(setting, spec, Stream(), np.random.default_rng(number))
        alarms += verdict.status == "alarm"
        if verdict.status == "alarm":
            blamed[verdict.reasons[0].name] += 1
    first = f", first {blamed.most_common(1)[0][0]}" if blamed else ""
    images = f"images of {theirs}{first}" if spec.shift else "its own"
    name = f"windows of {spec.window}, {images}"
    return Row(task=ours, row=name, metric="alarm", value=alarms / STREAMS, n=STREAMS)
