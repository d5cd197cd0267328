"""Part `drift`: monitoring on simulated streams, with and without a shift."""

import os
from pathlib import Path

import numpy as np

from benchmarks.figures import RUNS_VARIABLE
from benchmarks.rounds import device
from benchmarks.rows import Row
from cxr_mm.errors import StageError
from cxr_mm.paths import TaskPaths
from monitoring.scenarios.measure import FalseAlarms
from monitoring.scenarios.run import Effort, Results, run

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
            results = run(paths.bundle, paths, Effort(), print)
            rows += [*_false(results), *_power(results), *_slow(results), *_rivals(results)]
    if not rows:
        raise StageError("no bundle", field=str(root / "models"), remedy="Run dvc repro first")
    return rows


def _row(task: str, table: str, row: str, metric: str, value: float, n: int, **more: object) -> Row:
    facts = {"table": table, "task": task, "row": row, "metric": metric, "value": value, "n": n}
    return Row.model_validate({**facts, "device": device(), "command": COMMAND, **more})


def _false(results: Results) -> list[Row]:
    def named(quiet: FalseAlarms) -> str:
        whose = "the reference's own studies" if quiet.drawn == "reference" else "new studies"
        return f"windows of {quiet.window:,} of {whose}{', half labelled' if quiet.labels else ''}"

    rows = []
    for quiet in results.false_alarms:
        figures = ("false alarms", quiet.rate, MUST_FALSE), ("at most", quiet.high, MUST_FALSE_HIGH)
        for metric, value, must in figures:
            row = _row(results.task, "drift", named(quiet), metric, value, quiet.windows)
            rows.append(row.model_copy(update={"must": must, "ceiling": True}))
    return rows


def _power(results: Results) -> list[Row]:
    rows = []
    for found in results.power:
        name = f"{found.shift}, {found.size}, windows of {found.window:,}"
        counted = found.shift == "concept"
        asked = found.size == "large" and found.window == WINDOW
        within = found.within[-1] if counted else found.within[1]
        said = "alarm within 5 windows" if counted else "alarm within 2 windows"
        must = (CONCEPT if counted else SUDDEN) if asked else None
        rows += [
            _row(results.task, "drift", name, said, within, found.streams, must=must),
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
                    must=RIGHTLY if asked else None,
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


def _rivals(results: Results) -> list[Row]:
    return [
        _row(
            results.task,
            "drift-preset",
            f"{rival.shift}{', ' if rival.size else ''}{rival.size}",
            metric,
            value,
            rival.windows,
        )
        for rival in results.rivals
        for metric, value in (("half of the columns", rival.half), ("any column", rival.any))
    ]
