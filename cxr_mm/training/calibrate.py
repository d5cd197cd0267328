"""Calibration of a fusion on out-of-fold logits, with operating points and conformal bounds."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.config import CalibrationImages, FuseParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.task import Problem, Task
from cxr_mm.core.types import Modality, subset_name, subsets
from cxr_mm.models.calibration import Calibration, link, subset_mask
from cxr_mm.models.decision import Conformal, OperatingPoints, choose_operating_points, fit_bounds
from cxr_mm.models.fusion import Fusion
from cxr_mm.training.fusion_fit import FittedFusion, Index, Studies

SPREAD = 0.5
"""Prior standard deviation of the log weight of a column."""
ISOTONIC_FROM, RARER = 1000, 100
"""Labelled studies, and among them studies of the rarer class, that an isotonic step needs."""


@dataclass(frozen=True)
class OofLogits:
    """Out-of-fold logits of one subset of modalities, with labels and folds.

    Args:
        subset: the modalities that the networks were given.
        columns: (N, J, F) columns of the fusion, before calibration.
        labels: (N, F) 1, 0 or NaN.
        fold: (N,) number of the fold that a study was left out with.
    """

    subset: tuple[Modality, ...]
    columns: Tensor
    labels: Tensor
    fold: Tensor


def calibration_logits(
    studies: Studies, unseen: list[tuple[FittedFusion, Index]], images: CalibrationImages
) -> list[OofLogits]:
    """Collect the logits that a calibration is fitted to: of the studies as stored, or of every
    corrupted copy of them.

    Raises:
        StageError: there are no copies.
    """
    if images == "stored":
        return collect_oof_logits(studies, unseen)
    copies = studies.corrupted()
    if not copies:
        raise StageError(
            "there are no corrupted copies to calibrate on",
            field="fuse.calibrate_images",
            remedy="Set embed.copies to 1 or more, or take stored",
        )
    each = [collect_oof_logits(copy, unseen) for copy in copies]
    return [
        OofLogits(
            own[0].subset,
            torch.cat([logits.columns for logits in own]),
            torch.cat([logits.labels for logits in own]),
            torch.cat([logits.fold for logits in own]),
        )
        for own in zip(*each, strict=True)
    ]


@torch.no_grad()
def collect_oof_logits(
    studies: Studies, unseen: list[tuple[FittedFusion, Index]]
) -> list[OofLogits]:
    """Collect the logits of each subset of the task's modalities, of the studies that have it all.

    Args:
        studies: all of them.
        unseen: models, each with the rows it was not trained on.
    """
    collected = []
    inputs = [studies.inputs(model.transform) for model, _ in unseen]
    for subset in subsets(studies.task.modalities):
        used = subset_mask(subset)
        columns, labels, folds = [], [], []
        for number, ((model, rows), values) in enumerate(zip(unseen, inputs, strict=True)):
            having = studies.having(rows, used)
            mask = used.expand(len(having), -1)
            columns.append(model.fusion.columns({m: v[having] for m, v in values.items()}, mask))
            labels.append(studies.labels[having])
            folds.append(torch.full((len(having),), number))
        collected.append(OofLogits(subset, torch.cat(columns), torch.cat(labels), torch.cat(folds)))
    return collected


def calibrate(
    task: Task, fusion: Fusion, oof: list[OofLogits], params: FuseParams
) -> tuple[OperatingPoints, Conformal]:
    """Fit the calibration of each subset in place, choose its operating points and bounds."""
    points: OperatingPoints = {}
    bounds: Conformal = {}
    if fusion.spec.kind == "late":
        for own in oof:
            if len(own.subset) == 1:
                fusion.calibration.fit_parts(
                    own.subset[0], own.columns, own.labels, task.problem, SPREAD, own.fold
                )
    for own in oof:
        probabilities = _fit_calibration(fusion.calibration, own, task.problem, params)
        labels, name = own.labels.numpy(), subset_name(own.subset)
        bounds[name] = {
            finding: fit_bounds(labels[:, f], probabilities[:, f], params.coverage, task.problem)
            for f, finding in enumerate(task.finding_names)
        }
        if task.problem != "multiclass":
            points[name] = {
                finding: choose_operating_points(
                    labels[:, f],
                    probabilities[:, f],
                    params.target_sensitivity,
                    params.target_specificity,
                    params.calibrate_prevalence == "balanced",
                )
                for f, finding in enumerate(task.finding_names)
            }
    return points, bounds


def _fit_calibration(
    calibration: Calibration, oof: OofLogits, problem: Problem, params: FuseParams
) -> NDArray[np.float64]:
    """Fit one subset in place and return its calibrated probabilities (N, F)."""
    used = subset_mask(oof.subset)
    calibration.fit_subset(used, oof.columns, oof.labels, problem, SPREAD)
    if problem != "multiclass":
        calibration.fit_isotonic(used, oof.columns, oof.labels, ISOTONIC_FROM, RARER)
    if params.calibrate_prevalence == "balanced":
        calibration.balance(used, oof.labels, problem)
    logits = calibration(oof.columns, used.expand(len(oof.columns), -1))
    return link(logits, problem).numpy()
