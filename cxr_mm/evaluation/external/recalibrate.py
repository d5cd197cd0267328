"""Recalibration on a table of predictions: the updates, and the gain they bring.

The gain is measured by cross-validation over patients, the choice of updates included
(Steyerberg, Clinical Prediction Models, 2nd ed. 2019, chapter 5): every figure "after" is of
studies that neither the update nor the operating point has seen.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.config import EvaluateParams, FuseParams
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.paths import BUNDLE_INDEX
from cxr_mm.core.prediction import OperatingPoint, Reason
from cxr_mm.core.shards.store import Place, name_of
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, Modality, plural, subset_name, subsets
from cxr_mm.data.sources.shard_tables import table_digest
from cxr_mm.evaluation.metrics import SMALLEST
from cxr_mm.evaluation.resampling import multiplicities
from cxr_mm.evaluation.subsets import (
    finding_estimates,
    subset_order,
    subset_rows,
)
from cxr_mm.evaluation.uncertainty import finding_uncertainty
from cxr_mm.inference.table import PredictionTable
from cxr_mm.models.bundle import Bundle, check_absent, save_bundle
from cxr_mm.models.calibration import link
from cxr_mm.models.decision import (
    Conformal,
    OperatingPoints,
    choose_operating_points,
    decide,
    fit_bounds,
)
from cxr_mm.models.recalibration import Update, choose_updates, recalibrate

FOLDS = 5
METRICS = (
    "calibration_in_the_large",
    "calibration_intercept",
    "calibration_slope",
    "ece",
    "brier",
    "auc",
    "sensitivity",
    "specificity",
)
NEAREST = 1e-12
"""Distance from 0 and 1 at which probabilities are clipped before they become logits again."""
Pair = tuple[tuple[Modality, ...], str]
"""Subset and finding."""


@dataclass(frozen=True)
class Targets:
    """Targets of operating points and conformal bounds, and the operating point in use."""

    decision: Reason
    sensitivity: float
    specificity: float
    coverage: float

    @classmethod
    def of(cls, bundle: Bundle) -> "Targets":
        """Targets the bundle was fitted with; defaults where it does not record them."""
        stored = bundle.trained_on.get("params", {}).get("fuse", {})
        default = FuseParams()
        return cls(
            bundle.decision,
            stored.get("target_sensitivity", default.target_sensitivity),
            stored.get("target_specificity", default.target_specificity),
            stored.get("coverage", default.coverage),
        )


@dataclass
class Recalibration:
    """Updates, operating points and bounds by subset, and why the others stay as they are."""

    updates: dict[tuple[Modality, ...], dict[str, Update]] = field(default_factory=dict)
    points: OperatingPoints = field(default_factory=dict)
    bounds: Conformal = field(default_factory=dict)
    left: dict[str, dict[str, str]] = field(default_factory=dict)
    """Subset → finding → reason."""

    def __bool__(self) -> bool:
        return bool(self.updates)

    @property
    def pairs(self) -> set[Pair]:
        """What is updated."""
        return {(subset, name) for subset, found in self.updates.items() for name in found}


def rarer_class(task: Task, rows: pd.DataFrame, finding: str) -> int:
    """Patients of the rarer class; of the rarest one where classes share an update."""
    names = task.finding_names if task.problem == "multiclass" else (finding,)
    counts = [
        rows.loc[rows[f"label.{name}"] == label, "group"].nunique()
        for name in names
        for label in (1.0, 0.0)
    ]
    return int(min(counts))


def fit_recalibration(
    task: Task, table: pd.DataFrame, targets: Targets, only: set[Pair] | None = None
) -> Recalibration:
    """Choose and fit updates for every subset and finding with enough patients.

    Where a finding does not fit on all studies with what they have, it gets at least a new
    intercept in every subset: its prevalence does not depend on the modalities used.

    Args:
        task: of the bundle.
        table: predictions with a row per study and subset.
        targets: what operating points and bounds are to reach.
        only: leave all else as it is, and ask for half as many patients (for a part of a table).
    """
    found = Recalibration()
    needed = SMALLEST if only is None else SMALLEST // 2
    shifted = _shifted(task, subset_rows(table, AVAILABLE))
    for subset in subsets(task.modalities):
        rows = subset_rows(table, subset_name(subset))
        counts = {name: rarer_class(task, rows, name) for name in task.finding_names}
        chosen = [
            name
            for name, count in counts.items()
            if count >= needed and (only is None or (subset, name) in only)
        ]
        if left := {n: _too_few(counts[n]) for n in task.finding_names if n not in chosen}:
            found.left[subset_name(subset)] = left
        if not chosen:
            continue
        _fit_subset(task, subset, rows, {n: shifted[n] for n in chosen}, targets, found)
    return found


def _fit_subset(
    task: Task,
    subset: tuple[Modality, ...],
    rows: pd.DataFrame,
    shifted: dict[str, bool],
    targets: Targets,
    found: Recalibration,
) -> None:
    """Add the updates of one subset to `found`."""
    names = list(shifted)
    logits, labels = to_logits(task, rows, names), _labels(rows, names)
    updates = choose_updates(
        logits, labels, task.problem, _patients_per_study(rows), list(shifted.values())
    )
    chances = link(_apply(logits, updates), task.problem).numpy()
    known = {name: (labels[:, f].numpy(), chances[:, f]) for f, name in enumerate(names)}
    found.updates[subset] = dict(zip(names, updates, strict=True))
    found.bounds[subset_name(subset)] = {
        name: fit_bounds(truth, answers, targets.coverage, task.problem)
        for name, (truth, answers) in known.items()
    }
    if task.problem != "multiclass":
        found.points[subset_name(subset)] = {
            name: choose_operating_points(truth, answers, targets.sensitivity, targets.specificity)
            for name, (truth, answers) in known.items()
        }


def _shifted(task: Task, rows: pd.DataFrame) -> dict[str, bool]:
    """Which findings are miscalibrated on all studies, each with the modalities it has."""
    names = list(task.finding_names)
    logits, labels = to_logits(task, rows, names), _labels(rows, names)
    updates = choose_updates(logits, labels, task.problem, _patients_per_study(rows))
    return {name: u.method != "none" for name, u in zip(names, updates, strict=True)}


def _patients_per_study(rows: pd.DataFrame) -> float:
    return float(rows["group"].nunique() / len(rows))


def _too_few(count: int) -> str:
    return f"{plural(count, 'patient')} of the rarer class, {SMALLEST} needed"


def to_logits(task: Task, rows: pd.DataFrame, names: list[str]) -> Tensor:
    """Probabilities → logits (N, F) in float64, or log probabilities of a multiclass task."""
    chances = rows[[f"probability.{name}" for name in names]].to_numpy(np.float64)
    safe = torch.from_numpy(np.clip(chances, NEAREST, 1 - NEAREST))
    return safe.log() if task.problem == "multiclass" else safe.logit()


def _labels(rows: pd.DataFrame, names: list[str]) -> Tensor:
    return torch.tensor(rows[[f"label.{name}" for name in names]].to_numpy(np.float32))


def _apply(logits: Tensor, updates: list[Update]) -> Tensor:
    slope = torch.tensor([u.slope for u in updates], dtype=torch.float64)
    return logits * slope + torch.tensor([u.intercept for u in updates], dtype=torch.float64)


def recalibrated(
    task: Task, table: pd.DataFrame, found: Recalibration, decision: Reason
) -> pd.DataFrame:
    """The table as the recalibrated bundle would predict it, by the `modalities` of each row."""
    table = table.copy()
    for subset, updates in found.updates.items():
        names, here = list(updates), table["modalities"] == subset_name(subset)
        logits = to_logits(task, table[here], names)
        chances = link(_apply(logits, list(updates.values())), task.problem).numpy()
        bounds = [found.bounds[subset_name(subset)][name] for name in names]
        points: list[OperatingPoint | None] = [
            None if task.problem == "multiclass" else found.points[subset_name(subset)][n][decision]
            for n in names
        ]
        rows = len(chances)
        decided = decide(task.problem, chances, [points] * rows, [bounds] * rows)
        for column, values in PredictionTable(tuple(names)).arrays(chances, decided).items():
            table.loc[here, column] = values
    return table


def cross_validated(
    task: Task, table: pd.DataFrame, found: Recalibration, targets: Targets, seed: int
) -> pd.DataFrame:
    """The table with each study recalibrated by patients other than its own."""
    fold = patient_folds(task, table, seed)
    parts = []
    for number in np.unique(fold):
        inside = fold == number
        other = fit_recalibration(task, table[~inside], targets, only=found.pairs)
        parts.append(recalibrated(task, table[inside], other, targets.decision))
    return pd.concat(parts, ignore_index=True)


def patient_folds(task: Task, table: pd.DataFrame, seed: int) -> NDArray[np.int64]:
    """Fold (N,) of each row: patients dealt out in turn, those of like labels one after another."""
    labels = table[[f"label.{name}" for name in task.finding_names]].fillna(-1)
    patterns = labels.groupby(table["group"].to_numpy()).max()
    chance = np.random.default_rng(seed).random(len(patterns))
    order = np.lexsort((chance, *patterns.to_numpy().T))
    fold = np.empty(len(patterns), dtype=np.int64)
    fold[order] = np.arange(len(patterns)) % FOLDS
    return fold[patterns.index.get_indexer(pd.Index(table["group"]))]


def recalibration_gain(
    task: Task, before: pd.DataFrame, after: pd.DataFrame, params: EvaluateParams
) -> dict[str, Any]:
    """Subset → finding → metric → `before`, `after` and their paired `difference`."""
    result: dict[str, Any] = {}
    for subset in subset_order(task):
        old, new = subset_rows(before, subset), subset_rows(after, subset)
        if not len(old):
            continue
        weights = multiplicities(old["group"], params.bootstrap, params.seed)
        result[subset] = {}
        for name in task.finding_names:
            was = finding_estimates(old, name, weights)
            now = finding_estimates(new, name, weights)
            result[subset][name] = {
                metric: {
                    "before": was[metric].to_json(),
                    "after": now[metric].to_json(),
                    "difference": (now[metric] - was[metric]).to_json(),
                }
                for metric in METRICS
            }
            if task.problem != "multiclass" and "coverage" in old:
                sure = [finding_uncertainty(rows, name, weights) for rows in (old, new)]
                result[subset][name] |= {
                    share: dict(zip(("before", "after"), (s[share] for s in sure), strict=True))
                    for share in ("coverage", "uncertain")
                }
    return result


def recalibration_report(
    bundle: Bundle, table: pd.DataFrame, found: Recalibration, params: EvaluateParams
) -> dict[str, Any]:
    """Updates, and their gain for patients that they were not fitted on."""
    if not found:
        return {"left": found.left, "gain": None}
    after = cross_validated(bundle.task, table, found, Targets.of(bundle), params.seed)
    gain = recalibration_gain(bundle.task, table, after, params)
    return {"folds": FOLDS, **_updates_report(found), "gain": gain}


def _updates_report(found: Recalibration) -> dict[str, Any]:
    return {
        "updates": {
            subset_name(subset): {name: u.model_dump(mode="json") for name, u in updates.items()}
            for subset, updates in found.updates.items()
        },
        "left": found.left,
    }


def save_recalibrated(
    bundle: Bundle,
    table: pd.DataFrame,
    found: Recalibration,
    metrics: dict[str, Any],
    manifest_csv: Place,
    folder: Path,
) -> str:
    """Write the recalibrated bundle with its origin and warnings; return its digest."""
    rows = subset_rows(table, AVAILABLE)
    labels = rows[[f"label.{name}" for name in bundle.task.finding_names]].to_numpy(np.float32)
    record = {
        "manifest": name_of(manifest_csv),
        "manifest_sha256": table_digest(manifest_csv),
        "studies": metrics["n_studies"],
        "patients": metrics["n_patients"],
        "targets": asdict(Targets.of(bundle)),
        "warnings": metrics["transportability"]["warnings"],
        **_updates_report(found),
    }
    new = recalibrate(
        bundle, found.updates, found.points, found.bounds, torch.tensor(labels), record
    )
    check_absent(folder)  # again: reading images took its time
    return save_bundle(new, folder)


def check_enough(task: Task, rows: pd.DataFrame, manifest_csv: Place) -> None:
    """Check, before reading any image, that some finding has enough patients of both labels."""
    counts = {name: rarer_class(task, rows, name) for name in task.finding_names}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] < SMALLEST:
        raise ManifestError(
            f"{plural(counts[best], 'patient')} of the rarer class of {best}, too few to"
            f" recalibrate on, {SMALLEST} are needed",
            field=str(manifest_csv),
            remedy=f"Label {SMALLEST - counts[best]} more, or evaluate without recalibration",
        )


def check_any_update(found: Recalibration, manifest_csv: Place) -> None:
    """Check that anything is updated: rows may be unusable, or each subset too small."""
    if not found:
        raise ManifestError(
            f"no subset of the modalities has {SMALLEST} patients of the rarer class",
            field=str(manifest_csv),
            remedy="Label more studies, fix bad rows, or evaluate without recalibration",
        )


def check_destination(folder: Path, out: Path) -> None:
    """Check that a new bundle overwrites nothing and is outside other bundles and the report."""
    check_absent(folder)
    here, report = folder.resolve(), out.resolve()
    if report in (here, *here.parents) or here in report.parents:
        raise InputError(
            f"it and the folder of the report ({out}) must not hold each other",
            field=str(folder),
            remedy="Choose a folder beside it",
        )
    check_no_bundle(folder)


def check_no_bundle(folder: Path) -> None:
    """Check that the folder is not inside a bundle, which another file would make unreadable."""
    for parent in (folder.resolve(), *folder.resolve().parents):
        if (parent / BUNDLE_INDEX).exists():
            raise InputError(
                f"nothing may be written into the bundle {parent}",
                field=str(folder),
                remedy="Choose another folder",
            )
