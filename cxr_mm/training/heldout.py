"""Held-out predictions: what `evaluate` and `reference` know of studies the model was not shown."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from cxr_mm.core.prediction import ConformalBounds, Reason
from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES, subset_name, subsets
from cxr_mm.models.calibration import link, subset_mask
from cxr_mm.models.decision import certainties
from cxr_mm.training.fusion_fit import Fitted, Index, Studies

AVAILABLE = "available"


def heldout(studies: Studies, fitted: Fitted, test: Index, decision: Reason) -> pd.DataFrame:
    """Predictions on the test rows, for each subset and for whatever each study has."""
    frames = []
    inputs = studies.inputs(fitted.transform)
    choices = {subset_name(s): subset_mask(s) for s in subsets(studies.task.modalities)}
    everything = {AVAILABLE: subset_mask(studies.task.modalities)}
    for name, shown in {**choices, **everything}.items():
        rows = test if name == AVAILABLE else studies.having(test, shown)
        rows = rows[studies.mask[rows].any(1).numpy()]
        mask = studies.mask[rows] & shown
        with torch.inference_mode():
            logits = fitted.fusion({m: v[rows] for m, v in inputs.items()}, mask)
        frames.append(_table(studies, fitted, rows, mask, logits, decision).assign(subset=name))
    return pd.concat(frames, ignore_index=True)


def _table(
    studies: Studies, fitted: Fitted, rows: Index, mask: Tensor, logits: Tensor, decision: Reason
) -> pd.DataFrame:
    task = studies.task
    probabilities = link(logits, task.problem).numpy()
    table = studies.ids.iloc[rows].reset_index(drop=True)
    names = [
        subset_name(m for m, there in zip(MODALITIES, row, strict=True) if there)
        for row in mask.tolist()
    ]
    likeliest = probabilities.argmax(1) if len(rows) else np.zeros(0, dtype=np.int64)
    for f, finding in enumerate(task.finding_names):
        table[f"label.{finding}"] = studies.labels[rows, f].numpy()
        table[f"logit.{finding}"] = logits[:, f].numpy()
        table[f"probability.{finding}"] = probabilities[:, f]
        if task.problem == "multiclass":
            table[f"threshold.{finding}"] = np.nan
            table[f"positive.{finding}"] = likeliest == f
        else:
            cuts = [fitted.points[n][finding][decision].threshold for n in names]
            table[f"threshold.{finding}"] = np.array(cuts, dtype=np.float64)
            table[f"positive.{finding}"] = probabilities[:, f] >= np.array(cuts)
    return _with_certainty(task, table, [fitted.conformal[name] for name in names])


def _with_certainty(
    task: Task, table: pd.DataFrame, learnt: Sequence[Mapping[str, ConformalBounds]]
) -> pd.DataFrame:
    """Add `certainty.NAME`, and the `coverage` that was asked for."""
    findings = task.finding_names
    bounds = [[row[finding] for finding in findings] for row in learnt]
    probabilities = table[[f"probability.{finding}" for finding in findings]].to_numpy()
    positives = table[[f"positive.{finding}" for finding in findings]].to_numpy()
    said = certainties(task.problem, probabilities, positives, bounds)
    for f, finding in enumerate(findings):
        table[f"certainty.{finding}"] = pd.Series([row[f] for row in said], dtype=str)
    table["coverage"] = [row[0].coverage for row in bounds]
    return table
