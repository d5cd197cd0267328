"""Part `drift`: monitoring on simulated streams, with and without a shift."""

import os
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from benchmarks.harness.parts import Row
from benchmarks.harness.report import RUNS_VARIABLE
from benchmarks.harness.timing import device
from cxr_mm.core.config import ReferenceParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.study import Study
from cxr_mm.core.task import load_task
from cxr_mm.inference.predictor import load_predictor
from monitoring.simulation.measure import FalseAlarms
from monitoring.simulation.run import Results, SimulationConfig, run
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

COMMAND = "make benchmark PART=drift"
TASKS = ("synthetic", "effusion", "pneumonia")
MUST_FALSE, MUST_FALSE_HIGH = 0.05, 0.08
SUDDEN, CONCEPT, RIGHTLY = 0.95, 0.90, 0.80
WINDOW = 200
"""Studies of a window for which something is asked."""


def measure() -> list[Row]:
    """Rows of every scenario of the tasks whose bundle is there.

    Raises:
        StageError: there is none.
    """
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    rows: list[Row] = []
    for name in TASKS:
        paths = TaskPaths(name, root)
        if (paths.bundle / "bundle.json").is_file():
            results = run(paths.bundle, paths, SimulationConfig(), print)
            rows += [*_false(results), *_power(results), *_slow(results), *_baselines(results)]
    if not rows:
        raise StageError("no bundle", field=str(root / "models"), remedy="Run dvc repro first")
    return rows


def _row(task: str, table: str, row: str, metric: str, value: float, n: int, **more: object) -> Row:
    facts = {"table": table, "task": task, "row": row, "metric": metric, "value": value, "n": n}
    return Row.model_validate({**facts, "device": device(), "command": COMMAND, **more})


def _false(results: Results) -> list[Row]:
    def named(muted: FalseAlarms) -> str:
        owner = "the reference's own studies" if muted.source == "reference" else "new studies"
        return f"windows of {muted.window:,} of {owner}{', half labelled' if muted.labels else ''}"

    rows = []
    for muted in results.false_alarms:
        figures = ("false alarms", muted.rate, MUST_FALSE), ("at most", muted.high, MUST_FALSE_HIGH)
        for metric, value, must in figures:
            row = _row(results.task, "drift", named(muted), metric, value, muted.windows)
            rows.append(row.model_copy(update={"must": must, "ceiling": True}))
    return rows


def _power(results: Results) -> list[Row]:
    rows = []
    for found in results.power:
        name = f"{found.shift}, {found.size}, windows of {found.window:,}"
        counted = found.shift == "concept"
        requested = found.size == "large" and found.window == WINDOW
        within = found.within[-1] if counted else found.within[1]
        result = "alarm within 5 windows" if counted else "alarm within 2 windows"
        must = (CONCEPT if counted else SUDDEN) if requested else None
        rows += [
            _row(results.task, "drift", name, result, within, found.streams, must=must),
            _row(results.task, "drift", name, "first window", found.within[0], found.streams),
        ]
        if np.isfinite(found.delay):
            rows += [
                _row(results.task, "drift", name, "delay", found.delay, found.streams),
                _row(
                    results.task,
                    "drift",
                    name,
                    "rightly blamed",
                    found.right,
                    found.streams,
                    must=RIGHTLY if requested else None,
                ),
            ]
    return rows


def _slow(results: Results) -> list[Row]:
    return [
        _row(
            results.task,
            "drift",
            f"{grown.shift}, growing over 10 windows of {grown.window}",
            "delay",
            grown.delay,
            grown.streams,
        )
        for grown in results.slow
    ]


def _baselines(results: Results) -> list[Row]:
    return [
        _row(
            results.task,
            "drift-preset",
            f"{baseline.shift}{', ' if baseline.size else ''}{baseline.size}",
            metric,
            value,
            baseline.windows,
        )
        for baseline in results.baselines
        for metric, value in (("half of the columns", baseline.half), ("any column", baseline.any))
    ]


REAL_COMMAND = "make benchmark PART=drift-real"
WAYS = (("effusion", "pneumonia"), ("pneumonia", "effusion"))
MOST, REFERENCE, STREAMS = 600, 300, 20
WINDOWS = 50, 200


@dataclass(frozen=True)
class _ImageOnly:
    """Loads a study without what is known beside its image."""

    load: Callable[[], Study]

    def __call__(self) -> Study:
        return replace(self.load(), clinical={}, note=None)


def measure_real() -> list[Row]:
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
    own = [replace(s, load=_ImageOnly(s.load)) for s in own]
    images = [replace(s, load=_ImageOnly(s.load), labels={}) for s in other]
    setting, shift = _setting(ours, theirs, root, own, images)
    specs = [d for w in WINDOWS for d in (WindowSpec(shift, 1.0, w), WindowSpec(None, 0.0, w))]
    return [_real_row(setting, ours, each, theirs) for each in specs]


def _setting(
    ours: str, theirs: str, root: Path, own: Sequence[Labelled], images: Sequence[Labelled]
) -> tuple[Setting, Shift]:
    predictor = load_predictor(TaskPaths(ours, root).bundle)
    result, ood = predict(predictor, own), predict(predictor, images)
    present = [(s, r) for s, r in zip(own, result, strict=True) if r is not None]
    shift = Shift(f"images of {theirs}", "share", (1.0, 1.0, 1.0), (), alter=_never)
    n = min(len(present), len(images))
    shifted = PredictionPool(
        [s for s, _ in present[:n]], [r for _, r in present[:n]], {(shift.name, 1.0): ood[:n]}
    )
    pool = [s for s, _ in present], [r for _, r in present]
    rng = np.random.default_rng(0)
    task = predictor.bundle.task
    return build_setup(task, "real", pool, shifted, ReferenceParams(), REFERENCE, rng), shift


def _never(study: Study, *_: object) -> Study:
    """The corrupted studies exist already."""
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
    return Row(
        table="drift-real",
        task=ours,
        row=f"windows of {spec.window}, {images}",
        metric="alarm",
        value=alarms / STREAMS,
        n=STREAMS,
        device=device(),
        command=REAL_COMMAND,
    )
