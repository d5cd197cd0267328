"""Part `seeds`: how much of a figure is the luck of one training, where the encoder learns."""

from collections.abc import Iterator

import numpy as np

from benchmarks.accuracy.ablation import TRAINED, ungated
from benchmarks.harness.outputs import Figure, Metrics, figure, shipped_metrics
from benchmarks.harness.parts import Row
from benchmarks.harness.runs import Wanted, setting, side_by_side

SEEDS = (1, 2)
"""Besides the shipped one, which `dvc repro` has trained."""
METRICS = ("auc", "accuracy", "sensitivity", "specificity", "ece")
INPUTS = "image"


def measure() -> list[Row]:
    """Rows of every task whose encoder learns and that `dvc repro` has run."""
    rows: list[Row] = []
    for task in TRAINED:
        shipped = shipped_metrics(task)
        if shipped is None:
            print(f"seeds: {task} is left out: run dvc repro evaluate@{task}")
            continue
        runs = {setting(task, {}).params.train_image.seed: shipped}
        wanted = [
            Wanted(task, ungated({"train_image": {"seed": seed}}), f"seed {seed}") for seed in SEEDS
        ]
        for seed, done in zip(SEEDS, side_by_side(wanted), strict=True):
            if done is not None:
                runs[seed] = done.metrics
        rows += rows_of(task, runs)
    return rows


def rows_of(task: str, runs: dict[int, Metrics]) -> Iterator[Row]:
    """Figures of each seed, their mean, and their standard deviation from seed to seed."""
    for metric in METRICS:
        found = {seed: figure(metrics, INPUTS, metric) for seed, metrics in runs.items()}
        known = {seed: own for seed, own in found.items() if own is not None}
        for seed, own in known.items():
            yield Row(task=task, row=f"seed {seed}", metric=metric, seed=seed, **own.model_dump())
        yield from _over_seeds(task, metric, list(known.values()))


def _over_seeds(task: str, metric: str, found: list[Figure]) -> Iterator[Row]:
    if len(found) < 2:
        return
    values = [own.value for own in found]
    of = {"mean": np.mean(values), "standard deviation": np.std(values, ddof=1)}
    for name, value in of.items():
        row = f"{name} over {len(found)} seeds"
        yield Row(task=task, row=row, metric=metric, value=round(float(value), 6), n=found[0].n)
