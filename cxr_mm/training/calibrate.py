"""Calibrate: evidence of unseen studies → calibration, operating points, conformal bounds."""

from dataclasses import dataclass

import torch
from torch import Tensor

from cxr_mm.core.config import FuseParams
from cxr_mm.core.task import Problem, Task
from cxr_mm.core.types import Modality, subset_name, subsets
from cxr_mm.models.calibration import Calibration, link, subset_mask
from cxr_mm.models.decision import Conformal, OperatingPoints, choose_operating_points, fit_bounds
from cxr_mm.models.fusion import Fusion
from cxr_mm.training.fusion_fit import Fitted, Index, Studies

SPREAD = 0.5
"""Prior standard deviation of the log weight of a column."""
ISOTONIC_FROM, RARER = 1000, 100
"""Labelled studies, and among them studies of the rarer class, that an isotonic step needs."""


@dataclass(frozen=True)
class OofLogits:
    """What networks say of studies they were not trained on, shown one subset of modalities."""

    subset: tuple[Modality, ...]
    columns: Tensor
    labels: Tensor
    fold: Tensor


@torch.inference_mode()
def collect_oof_logits(studies: Studies, unseen: list[tuple[Fitted, Index]]) -> list[OofLogits]:
    """For every subset of the task's modalities, of the studies that have all of it."""
    found = []
    inputs = [studies.inputs(inner.transform) for inner, _ in unseen]
    for subset in subsets(studies.task.modalities):
        shown = subset_mask(subset)
        columns, labels, folds = [], [], []
        for number, ((inner, rows), values) in enumerate(zip(unseen, inputs, strict=True)):
            having = studies.having(rows, shown)
            mask = shown.expand(len(having), -1)
            columns.append(inner.fusion.columns({m: v[having] for m, v in values.items()}, mask))
            labels.append(studies.labels[having])
            folds.append(torch.full((len(having),), number))
        found.append(OofLogits(subset, torch.cat(columns), torch.cat(labels), torch.cat(folds)))
    return found


def calibrate(
    task: Task, fusion: Fusion, evidence: list[OofLogits], params: FuseParams
) -> tuple[OperatingPoints, Conformal]:
    """Fit the calibration of each subset in place, choose its operating points and bounds."""
    points: OperatingPoints = {}
    conformal: Conformal = {}
    if fusion.spec.kind == "late":
        _blend_parts(task, fusion.calibration, evidence)
    for seen in evidence:
        shown = subset_mask(seen.subset)
        # Copies, because what inference mode made cannot take part in a fit.
        columns, labels = seen.columns.clone(), seen.labels.clone()
        _fit_calibration(fusion.calibration, shown, columns, labels, task.problem)
        logits = fusion.calibration(columns, shown.expand(len(columns), -1))
        probabilities = link(logits, task.problem).numpy()
        conformal[subset_name(seen.subset)] = {
            finding: fit_bounds(
                labels[:, f].numpy(), probabilities[:, f], params.coverage, task.problem
            )
            for f, finding in enumerate(task.finding_names)
        }
        if task.problem != "multiclass":
            points[subset_name(seen.subset)] = {
                finding: choose_operating_points(
                    labels[:, f].numpy(),
                    probabilities[:, f],
                    params.target_sensitivity,
                    params.target_specificity,
                )
                for f, finding in enumerate(task.finding_names)
            }
    return points, conformal


def _blend_parts(task: Task, calibration: Calibration, evidence: list[OofLogits]) -> None:
    for seen in evidence:
        if len(seen.subset) == 1:
            columns, labels = seen.columns.clone(), seen.labels.clone()
            calibration.fit_parts(
                seen.subset[0], columns, labels, task.problem, SPREAD, seen.fold.clone()
            )


def _fit_calibration(
    calibration: Calibration,
    shown: Tensor,
    columns: Tensor,
    labels: Tensor,
    problem: Problem,
) -> None:
    calibration.fit_subset(shown, columns, labels, problem, SPREAD)
    if problem != "multiclass":
        calibration.fit_isotonic(shown, columns, labels, ISOTONIC_FROM, RARER)
