"""Part `nested`: what the shipped scales gained by being chosen on the folds that are printed.

In each fold the scales are chosen anew from its training studies alone, by the AUC of inner folds
(nested cross-validation: Varma and Simon, BMC Bioinformatics 2006; 7:91), and the test studies of
the fold are answered with those.
"""

from collections.abc import Iterator
from itertools import product

import numpy as np
import pandas as pd

from benchmarks.harness.outputs import after, fields_of
from benchmarks.harness.parts import Row
from cxr_mm.core.config import EvaluateParams, FuseParams, for_task, load_params
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task, load_task
from cxr_mm.core.types import AVAILABLE, Modality
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import Resample, group_folds, load_split, resamples
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.resampling import Estimate, Weights, mean_of, multiplicities
from cxr_mm.evaluation.subsets import scored_of, subset_rows
from cxr_mm.training.fuse import fit_fusion, heldout
from cxr_mm.training.fusion_fit import Studies, load_studies

TASKS = ("effusion", "covid", "icu", "intubation")
"""Tasks on whose folds scales were chosen."""
GRID: dict[Modality, tuple[float, ...]] = {
    "image": (0.5, 1.5, 4.0),
    "tabular": (1.0, 4.0),
    "note": (1.0, 4.0),
}
"""Scales to choose from, as part `ablation` compares them; the shipped ones are among them."""
INNER_FOLDS = 3


def measure() -> list[Row]:
    """Rows of every task that `dvc repro` has embedded."""
    return [row for paths in after("embed", "nested", TASKS) for row in measure_task(paths)]


def measure_task(paths: TaskPaths) -> list[Row]:
    """AUC of whatever a study has, with the shipped scales, with nested choice, and the loss."""
    task = load_task(paths.task)
    params = for_task(load_params(), task)
    manifest, table = load_manifest(paths, task), load_split(paths)
    studies = load_studies(manifest, table, paths, params.fuse)
    shipped, nested, same = [], [], 0
    for number, part in enumerate(resamples(table)):
        best = choose(studies, part, params.fuse)
        same += best == params.fuse
        shipped.append(_answered(studies, part, params.fuse, number))
        nested.append(_answered(studies, part, best, number))
    chosen = f"chosen in each fold, the shipped scales in {same} of {len(nested)}"
    return list(
        _rows(manifest.task, pd.concat(shipped), pd.concat(nested), chosen, params.evaluate)
    )


def choose(studies: Studies, part: Resample, params: FuseParams) -> FuseParams:
    """The scales of `GRID` with the best AUC over inner folds of a fold's training studies."""
    inner = list(_inner(studies, part, params.seed))
    quick = params.model_copy(update={"inner_folds": INNER_FOLDS})

    def value(scales: dict[str, float]) -> float:
        fuse = quick.model_copy(update=scales)
        tables = [_answered(studies, own, fuse, own.fold) for own in inner]
        rows = subset_rows(pd.concat(tables), AVAILABLE)
        return _auc(studies.task, rows, np.ones((1, len(rows)), np.uint16)).value

    return params.model_copy(update=max(_scales(studies.task), key=value))


def _inner(studies: Studies, part: Resample, seed: int) -> Iterator[Resample]:
    rows = np.sort(np.concatenate([part.train, part.val]))
    labels, none = studies.labels[rows].numpy(), np.arange(0)
    fold = group_folds(labels, studies.groups[rows], INNER_FOLDS, seed, "nested.INNER_FOLDS")
    for number in range(INNER_FOLDS):
        yield Resample(number, rows[fold != number], none, rows[fold == number])


def _scales(task: Task) -> Iterator[dict[str, float]]:
    for values in product(*(GRID[modality] for modality in task.modalities)):
        yield {f"{m}_scale": value for m, value in zip(task.modalities, values, strict=True)}


def _answered(studies: Studies, part: Resample, fuse: FuseParams, number: int) -> pd.DataFrame:
    fit = fit_fusion(studies, part.train, part.val, fuse, number)
    return heldout(studies, fit, part.test, fuse.operating_point)


def _rows(
    task: Task, shipped: pd.DataFrame, nested: pd.DataFrame, chosen: str, params: EvaluateParams
) -> Iterator[Row]:
    tables = [subset_rows(table, AVAILABLE) for table in (shipped, nested)]
    weights = multiplicities(tables[0]["group"], params.bootstrap, params.seed)
    ours, anew = (_auc(task, table, weights) for table in tables)
    facts = {"task": task.name, "n": len(tables[0]), "seed": params.seed}
    yield Row(row="shipped scales", metric="auc", **facts, **fields_of(ours))
    yield Row(row=chosen, metric="auc", **facts, **fields_of(anew))
    loss = {**fields_of(anew - ours), "reference": 0.0}
    yield Row(row=chosen, metric="auc minus that of the shipped", **facts, **loss)


def _auc(task: Task, rows: pd.DataFrame, weights: Weights) -> Estimate:
    found = []
    for name in task.finding_names:
        scored, labelled = scored_of(rows, name)
        patients = rows.loc[labelled, "group"]
        found.append(auc_estimate(scored, weights[:, labelled], patients))
    return mean_of(found)
