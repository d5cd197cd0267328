"""Part `mitigation`: what closing a subgroup gap by thresholds, recalibration or weights costs.

Every gap that `evaluate` shows after correction is mitigated by each method. Thresholds and
recalibration are fitted to other patients' held-out predictions, weights in each fold.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import pandas as pd

from benchmarks.harness.outputs import after
from benchmarks.harness.parts import Row
from cxr_mm.core.config import EvaluateParams, Params, for_task, load_params
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task, load_task
from cxr_mm.data.manifest import (
    Manifest,
    finding_column,
    load_manifest,
    with_frequent_findings,
)
from cxr_mm.data.split import load_split, resamples
from cxr_mm.evaluation.evaluate import SUBGROUPS_FILE, read_heldout
from cxr_mm.evaluation.mitigation import measure_mitigation
from cxr_mm.evaluation.traits import read_traits
from cxr_mm.training.fuse import load_fits, predict_unseen
from cxr_mm.training.fusion_fit import load_studies
from cxr_mm.training.reweight import groupings

TASKS = ("effusion", "nih", "nih_opacity", "covid", "icu", "intubation", "pneumonia_sites")
Report = dict[str, Any]


def measure() -> list[Row]:
    """Rows of every task that has been evaluated and has a gap."""
    return [
        row
        for paths in after("evaluate", "mitigation", TASKS)
        for row in measure_task(with_frequent_findings(load_task(paths.task), paths), paths)
    ]


def measure_task(task: Task, paths: TaskPaths) -> Iterator[Row]:
    """Rows of each gap of a task and each method."""
    manifest, params = load_manifest(paths, task), for_task(load_params(), task)
    gaps = shown_gaps(read_json(paths.reports / SUBGROUPS_FILE))
    wanted = params.evaluate.model_copy(update={"mitigate": ("thresholds", "recalibrate")})
    for by in dict.fromkeys(by for _, by in gaps):
        found = mitigated(manifest, read_heldout(task, paths), by, wanted)
        if by in groupings(task):
            again = mitigated(manifest, reweighted(manifest, paths, params, by), by, wanted)
            for name, methods in again.items():
                found.get(name, {})["reweight"] = methods["reweight"]
        for finding in (name for name, characteristic in gaps if characteristic == by):
            labelled = int(manifest.frame[finding_column(finding)].notna().sum())
            yield from _rows(task, finding, by, found.get(finding, {}), labelled)


def shown_gaps(report: Report) -> list[tuple[str, str]]:
    """Finding and characteristic of each gap that is shown after correction."""
    return list(
        dict.fromkeys(
            (flag["finding"], flag["by"])
            for flag in report["flags"]
            if flag["survives_correction"] and not flag["crossed"]
        )
    )


def mitigated(
    manifest: Manifest, table: pd.DataFrame, by: str, params: EvaluateParams
) -> dict[str, Report]:
    """Finding → method → figures, of one characteristic."""
    ids = sorted(set(table["study_id"]))
    alone = params.model_copy(update={"characteristics": (by,)})
    found = measure_mitigation(manifest.task, table, read_traits(manifest, alone, ids), params)
    return {name: divided[by] for name, divided in found.items() if by in divided}


def reweighted(manifest: Manifest, paths: TaskPaths, params: Params, by: str) -> pd.DataFrame:
    """Held-out predictions of models with weights by a characteristic, and without."""
    fuse = params.fuse.model_copy(update={"reweight": by})
    split = load_split(paths)
    studies = load_studies(manifest, split, paths, fuse)
    divided = [resamples(split)]
    return predict_unseen(divided, partial(load_fits, studies, divided, fuse))[0]


def _rows(task: Task, finding: str, by: str, methods: Report, n: int) -> Iterator[Row]:
    """The gaps before and after, and what every figure changes by."""
    for method, figures in methods.items():
        facts = {"task": task.name, "row": f"{finding} by {by}: {method}", "n": n}
        for name, gap in figures["gaps"].items():
            yield from _estimates(gap, ("before", "after"), f"{name} gap", facts)
        for name, figure in {**figures["gaps"], **figures["overall"]}.items():
            kind = " gap" if name in figures["gaps"] else ""
            yield from _estimates(figure, ("change",), f"{name}{kind}", facts)


def _estimates(figure: Report, sides: tuple[str, ...], name: str, facts: Report) -> Iterator[Row]:
    for side in sides:
        found = figure[side]
        if found["value"] is not None:
            reference = 0.0 if side == "change" else None
            yield Row(
                metric=f"{name}, {side}",
                value=found["value"],
                ci95=found["ci95"],
                reference=reference,
                **facts,
            )
