"""Importance: how far each modality and each clinical feature moves the logit, over a split."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.study import Study
from cxr_mm.errors import InputError
from cxr_mm.explain.faithfulness.intervals import mean_with_interval
from cxr_mm.explain.methods import METHODS, Ask
from cxr_mm.explain.shares import modality_shares
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Bundle


def importance(bundle: Bundle, studies: Iterable[Study], seed: int) -> dict[str, Any]:
    """Mean absolute share of each modality, and SHAP value of each feature, in logits.

    Args:
        bundle: the model.
        studies: of one split; those that have nothing the task uses are left out.
        seed: of SHAP's permutations and of the intervals.

    Returns:
        Finding → `modalities` and `clinical`, each name → n, mean, and its interval over patients.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        try:
            subject = Subject(bundle, study)
        except InputError:
            continue
        rows += _of(subject, seed)
    table = pd.DataFrame(rows, columns=["finding", "kind", "name", "value", "patient_id"])
    return {
        finding: {
            kind: {
                str(name): {"n": len(own), **_mean(own, seed)}
                for name, own in chosen.groupby("name", sort=False)
            }
            for kind, chosen in table[table["finding"] == finding].groupby("kind", sort=False)
        }
        for finding in bundle.task.finding_names
    }


def _of(subject: Subject, seed: int) -> list[dict[str, Any]]:
    rows = []
    for finding, said in modality_shares(subject).items():
        about = {"finding": finding, "patient_id": subject.study.patient_id}
        rows += [
            {**about, "kind": "modalities", "name": m, "value": abs(share)}
            for m, share in said.shares.items()
        ]
        if "tabular" in subject.present:
            values = METHODS["shap_tabular"].explain(subject, Target(finding), Ask(seed))
            rows += [
                {**about, "kind": "clinical", "name": name, "value": abs(float(value))}
                for name, value in zip(values.names, values.values, strict=True)
            ]
    return rows


def _mean(rows: pd.DataFrame, seed: int) -> dict[str, float]:
    values = rows["value"].to_numpy(np.float64)
    return mean_with_interval(values.tolist(), rows["patient_id"].astype(str).tolist(), seed)
