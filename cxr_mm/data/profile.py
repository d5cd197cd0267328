"""Profile: who the studies of a table are, in figures by which two tables can be compared.

How a model does elsewhere can only be read beside how the studies there differ (Debray et al.,
J Clin Epidemiol 2015; 68:279).
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from cxr_mm.core.task import Task
from cxr_mm.core.types import MODALITIES
from cxr_mm.data.manifest import Manifest

Profile = dict[str, Any]


def profile(
    task: Task, mask: ArrayLike, traits: pd.DataFrame, labels: pd.DataFrame, patients: int
) -> Profile:
    """Describe N studies.

    Args:
        task: says which modalities count.
        mask: (N, 3) which modalities each study has, in canonical order.
        traits: (N, …) numbers or text by name, missing where not known.
        labels: (N, F) 1, 0 or missing, a column for each finding.
        patients: how many they are of.

    Returns:
        `studies`, `patients`, `missing` (modality → share), `traits` (name → `known` and either
        `mean` and `sd` or `shares`), `positive` (finding → share of the labelled).
    """
    present = np.asarray(mask, dtype=bool).mean(axis=0)
    return {
        "studies": len(traits),
        "patients": patients,
        "missing": {m: _share(1 - present[MODALITIES.index(m)]) for m in task.modalities},
        "traits": {str(name): _trait(column) for name, column in traits.items()},
        "positive": {str(name): _share(column.mean()) for name, column in labels.items()},
    }


def manifest_profile(manifest: Manifest, rows: ArrayLike) -> Profile:
    """Describe some rows of a manifest; its views are a trait where it knows any."""
    chosen = np.asarray(rows)
    frame = manifest.frame.iloc[chosen]
    traits = manifest.clinical().iloc[chosen]
    if "view" not in traits and frame["view"].notna().any():
        traits = traits.assign(view=frame["view"])
    labels = pd.DataFrame(manifest.labels()[chosen], columns=list(manifest.task.finding_names))
    patients = int(frame["patient_id"].nunique())
    return profile(manifest.task, manifest.mask()[chosen], traits, labels, patients)


def _trait(column: "pd.Series[Any]") -> dict[str, Any]:
    known = column.dropna()
    if pd.api.types.is_numeric_dtype(column):
        # ddof=0, as the clinical transform has it
        numbers = {"mean": known.mean(), "sd": known.std(ddof=0)} if len(known) else {}
        return {"known": len(known), **{name: round(float(v), 4) for name, v in numbers.items()}}
    counts = known.astype(str).value_counts(normalize=True)
    return {"known": len(known), "shares": {name: _share(v) for name, v in counts.items()}}


def _share(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)
