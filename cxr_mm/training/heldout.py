"""Held-out predictions: what `evaluate` and `reference` know of studies the model was not shown."""

import pandas as pd
import torch
from torch import Tensor

from cxr_mm.core.prediction import Reason
from cxr_mm.core.types import MODALITIES, subset_name, subsets
from cxr_mm.inference.table import PredictionTable
from cxr_mm.models.calibration import link, subset_mask
from cxr_mm.models.decision import decide
from cxr_mm.training.fusion_fit import FittedFusion, Index, Studies

AVAILABLE = "available"


def heldout(studies: Studies, fit: FittedFusion, test: Index, decision: Reason) -> pd.DataFrame:
    """Predictions on the test rows, for each subset and for whatever each study has."""
    frames = []
    inputs = studies.inputs(fit.transform)
    choices = {subset_name(s): subset_mask(s) for s in subsets(studies.task.modalities)}
    everything = {AVAILABLE: subset_mask(studies.task.modalities)}
    for name, shown in {**choices, **everything}.items():
        rows = test if name == AVAILABLE else studies.having(test, shown)
        rows = rows[studies.mask[rows].any(1).numpy()]
        mask = studies.mask[rows] & shown
        with torch.inference_mode():
            logits = fit.fusion({m: v[rows] for m, v in inputs.items()}, mask)
        frames.append(_table(studies, fit, rows, mask, logits, decision).assign(subset=name))
    return pd.concat(frames, ignore_index=True)


def _table(
    studies: Studies, fit: FittedFusion, rows: Index, mask: Tensor, logits: Tensor, decision: Reason
) -> pd.DataFrame:
    task = studies.task
    probabilities = link(logits, task.problem).numpy()
    table = studies.ids.iloc[rows].reset_index(drop=True)
    names = [
        subset_name(m for m, present in zip(MODALITIES, row, strict=True) if present)
        for row in mask.tolist()
    ]
    findings, classes = task.finding_names, task.problem == "multiclass"
    points = [
        [None if classes else fit.points[name][finding][decision] for finding in findings]
        for name in names
    ]
    bounds = [[fit.conformal[name][finding] for finding in findings] for name in names]
    decided = decide(task.problem, probabilities, points, bounds)
    for f, finding in enumerate(findings):
        table[f"label.{finding}"] = studies.labels[rows, f].numpy()
        table[f"logit.{finding}"] = logits[:, f].numpy()
    for column, values in PredictionTable(findings).arrays(probabilities, decided).items():
        table[column] = pd.Series(values, dtype=str) if values.dtype.kind == "U" else values
    table["coverage"] = [row[0].coverage for row in bounds]
    return table
