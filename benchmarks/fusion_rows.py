"""Rows of part `fusion`: what the predictions say, each difference on the same studies."""

from dataclasses import dataclass

import pandas as pd

from benchmarks.rows import Row
from cxr_mm.contracts.task import Task
from cxr_mm.evaluation.intervals import Estimate, mean_of, multiplicities, rounded
from cxr_mm.evaluation.metrics import Scored, auc, expected_calibration_error
from cxr_mm.evaluation.subsets import Weights, subset_order, subset_rows
from cxr_mm.params import EvaluateParams, FuseParams

TABLE, EVERY = "fusion", "fusion: every model"
COMMAND = "make benchmark PART=fusion"
SPECIALIST = "specialist"
WITHIN = -0.01
"""How far the fused model may be from a specialist."""
CALIBRATED = 0.05
"""The most that the calibration error may be where there are studies enough to tell it."""
Limits = tuple[float, float] | None


@dataclass(frozen=True)
class Compared:
    """Held-out predictions of one model in all rounds, and how long it took."""

    table: pd.DataFrame
    seconds: float


@dataclass(frozen=True)
class Seen:
    """One model's figures on one subset, the mean over findings."""

    auc: Estimate
    ece: Estimate


def rows_of(
    task: Task, compared: dict[str, Compared], fuse: FuseParams, evaluate: EvaluateParams
) -> list[Row]:
    """What is asked of the task's own kind of fusion, then every model beside it."""
    own = compared[fuse.fusion].table
    asked: list[Row] = []
    every: list[Row] = []
    for subset in subset_order(task):
        frames = {m: subset_rows(found.table, subset) for m, found in compared.items()}
        frames = {model: frame for model, frame in frames.items() if len(frame)}
        if not frames:
            continue
        seen = {model: figures(task, frame, evaluate) for model, frame in frames.items()}
        write = _Writer(task, subset, len(frames[fuse.fusion]), evaluate.seed)
        asked += _asked(write, seen, fuse.fusion)
        if "+" in subset:
            asked += _gain(write, seen[fuse.fusion].auc, _singles(task, own, subset, evaluate))
        every += _every(write, seen, fuse.fusion, compared)
    return [*asked, *every]


def figures(task: Task, frame: pd.DataFrame, params: EvaluateParams) -> Seen:
    """Figures of one model on the studies of a frame, one row each.

    The resamples depend on the studies' groups alone, so that two models of the same studies
    can be subtracted.
    """
    weights = multiplicities(frame["group"], params.bootstrap, params.seed)
    found = [_finding(frame, name, weights, params.ece_bins) for name in task.finding_names]
    return Seen(mean_of([s.auc for s in found]), mean_of([s.ece for s in found]))


def _finding(frame: pd.DataFrame, finding: str, weights: Weights, bins: int) -> Seen:
    chances = frame[f"probability.{finding}"]
    scored, kept = Scored.known(frame[f"label.{finding}"], chances, chances >= 0.5)
    own = weights[:, kept]
    error = float(expected_calibration_error(scored, bins=bins)[0])
    errors = expected_calibration_error(scored, own, bins)
    return Seen(
        Estimate(float(auc(scored)[0]), auc(scored, own)), Estimate(error, errors, centred=True)
    )


def _singles(
    task: Task, table: pd.DataFrame, subset: str, params: EvaluateParams
) -> dict[str, Estimate]:
    """AUC of each modality of a subset alone, on the studies that have all of the subset."""
    studies = subset_rows(table, subset)["study_id"]
    found = {}
    for modality in subset.split("+"):
        frame = subset_rows(table, modality)
        same = frame[frame["study_id"].isin(studies)].reset_index(drop=True)
        found[modality] = figures(task, same, params).auc
    return found


@dataclass(frozen=True)
class _Writer:
    task: Task
    subset: str
    n: int
    seed: int

    def row(self, table: str, row: str, metric: str, value: float, ci95: Limits) -> Row:
        return Row(
            table=table,
            task=self.task.name,
            row=row,
            metric=metric,
            value=rounded(value),
            ci95=None if ci95 is None else (rounded(ci95[0]), rounded(ci95[1])),
            n=self.n,
            seed=self.seed,
            command=COMMAND,
        )

    def asked(self, row: str, metric: str, found: Estimate, **targets: object) -> Row:
        written = self.row(TABLE, row, metric, found.value, found.interval)
        return written.model_copy(update=targets)


def _asked(write: _Writer, seen: dict[str, Seen], own: str) -> list[Row]:
    """Calibration, and the distance from the better of the specialists on these very studies."""
    bound = {"must": CALIBRATED, "ceiling": True} if write.task.synthetic else {}
    rows = [write.asked(f"{write.subset}: {own}", "ece", seen[own].ece, **bound)]
    experts = {model: s for model, s in seen.items() if model.startswith(SPECIALIST)}
    if experts:
        best = max(experts, key=lambda model: experts[model].auc.value)
        difference = seen[own].auc - experts[best].auc
        named = f"{write.subset}: {own} minus {best}"
        rows.append(write.asked(named, "auc", difference, reference=0.0, must=WITHIN))
    return rows


def _gain(write: _Writer, together: Estimate, singles: dict[str, Estimate]) -> list[Row]:
    """Distance from the best single modality, and on made-up data the least it may be."""
    best = max(singles, key=lambda modality: singles[modality].value)
    gain = together - singles[best]
    named = f"{write.subset} minus {best} alone"
    rows = [write.asked(named, "auc", gain, reference=0.0)]
    if write.task.synthetic and gain.interval is not None:
        low = write.row(TABLE, named, "lower limit of the gain", gain.interval[0], None)
        rows.append(low.model_copy(update={"must": 0.0}))
    return rows


def _every(
    write: _Writer, seen: dict[str, Seen], own: str, compared: dict[str, Compared]
) -> list[Row]:
    rows = []
    for model, found in seen.items():
        named = f"{write.subset}: {model}"
        for metric, estimate in (("auc", found.auc), ("ece", found.ece)):
            row = write.row(EVERY, named, metric, estimate.value, estimate.interval)
            rows.append(row.model_copy(update={"seconds": compared[model].seconds}))
        if model != own:
            less = found.auc - seen[own].auc
            row = write.row(EVERY, named, f"auc minus {own}", less.value, less.interval)
            rows.append(row.model_copy(update={"reference": 0.0}))
    return rows
