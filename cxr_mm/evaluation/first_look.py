"""First look: what to read before any other figure of a model at another centre.

Calibration in the large, intercept and slope (Van Calster et al., BMC Medicine 2019; 17:230),
discrimination, what the operating points keep of what they were chosen for, and how the studies
differ from those trained on (Debray et al., J Clin Epidemiol 2015; 68:279).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.contracts.modality import MODALITIES
from cxr_mm.contracts.prediction import OperatingPoint
from cxr_mm.contracts.task import Task
from cxr_mm.data.clinical import check_clinical
from cxr_mm.data.profile import Profile, profile
from cxr_mm.data.sources.base import age_in_years
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.evaluation.intervals import Estimate, multiplicities
from cxr_mm.evaluation.metrics import Scored, counted
from cxr_mm.evaluation.subsets import AVAILABLE, Weights, subset_rows
from cxr_mm.models.bundle import Bundle
from cxr_mm.params import EvaluateParams

FIGURES = ("calibration_in_the_large", "calibration_intercept", "calibration_slope", "auc")
TRAITS = ("age", "sex", "view")
"""Columns looked at even where the task does not use them."""


def first_look(
    bundle: Bundle,
    table: pd.DataFrame,
    measured: dict[str, Any],
    manifest_csv: Path,
    params: EvaluateParams,
) -> dict[str, Any]:
    """What metrics.json says first.

    Args:
        bundle: the model.
        table: predictions on labelled studies; rows name what they were shown (`modalities`).
        measured: as `measure_table` has it.
        manifest_csv: where the studies are from.
        params: resamples and seed.

    Returns:
        `findings` (name → FIGURES, `operating_points`), `studies` (`here`, `trained_on`),
        `caveats` of the model's task and `warnings`.
    """
    rows = subset_rows(table, AVAILABLE)
    weights = multiplicities(rows["group"], params.bootstrap, params.seed)
    figures = measured["subsets"][AVAILABLE]["findings"]
    findings = {
        finding.name: {
            "n": figures[finding.name]["n"],
            "positives": figures[finding.name]["positives"],
            **{metric: figures[finding.name][metric] for metric in FIGURES},
            "operating_points": operating_points(bundle, rows, finding.name, weights),
        }
        for finding in bundle.task.findings
    }
    titles = {finding.name: finding.title for finding in bundle.task.findings}
    warned = [_no_skill(titles[name], figures["auc"]) for name, figures in findings.items()]
    return {
        "findings": findings,
        "studies": {
            "here": _profile_here(bundle.task, rows, manifest_csv),
            "trained_on": profile_of_training(bundle),
        },
        "caveats": list(bundle.task.caveats),
        "warnings": [text for text in warned if text],
    }


def operating_points(
    bundle: Bundle, rows: pd.DataFrame, finding: str, weights: Weights
) -> dict[str, Any]:
    """Sensitivity and specificity at each operating point, beside those it was chosen with."""
    points = [bundle.operating_points.get(name, {}).get(finding) for name in rows["modalities"]]
    if not points or any(found is None for found in points):
        return {}
    there = [found for found in points if found is not None]
    return {
        reason: {
            "in_use": reason == bundle.decision,
            **_kept(rows, finding, [found[reason] for found in there], weights),
        }
        for reason in there[0]
    }


def _kept(
    rows: pd.DataFrame, finding: str, points: Sequence[OperatingPoint], weights: Weights
) -> dict[str, Any]:
    chances = rows[f"probability.{finding}"].to_numpy(np.float64)
    positives = chances >= np.array([point.threshold for point in points])
    scored, kept = Scored.known(rows[f"label.{finding}"], chances, positives)
    values, draws = counted(scored), counted(scored, weights[:, kept])
    groups = rows.loc[kept, "group"].to_numpy()
    chosen = {
        "sensitivity": ([p.sensitivity for p in points], scored.labels > 0),
        "specificity": ([p.specificity for p in points], scored.labels == 0),
    }
    return {
        name: {
            **Estimate(
                float(values[name][0]),
                draws[name],
                "no such study",
                trials=len(np.unique(groups[among])),
            ).to_json(),
            "chosen_with": round(float(np.mean(said)), 4),
        }
        for name, (said, among) in chosen.items()
    }


def _no_skill(title: str, auc: dict[str, Any]) -> str:
    """A sentence where a finding is told from its absence no better than by chance."""
    if not auc["ci95"] or auc["ci95"][0] > 0.5:
        return ""
    low, high = auc["ci95"]
    how = (
        "ranks studies the wrong way round" if high < 0.5 else "ranks studies no better than chance"
    )
    return (
        f"{title}: the model {how} here (AUC {auc['value']:.3f}, {low:.3f} to {high:.3f}); "
        "recalibration cannot mend that, it can only return probabilities to the prevalence"
    )


def profile_of_training(bundle: Bundle) -> Profile:
    """What the bundle says of the studies it was trained on; of old ones only the numbers."""
    said = bundle.trained_on.get("profile")
    if said is not None:
        return dict(said)
    return {
        "studies": bundle.trained_on.get("studies"),
        "patients": bundle.trained_on.get("groups"),
        "traits": {
            name: {"mean": round(mean, 4), "sd": round(bundle.clinical.scale[name], 4)}
            for name, mean in bundle.clinical.mean.items()
        },
    }


def _profile_here(task: Task, rows: pd.DataFrame, manifest_csv: Path) -> Profile:
    mask = np.array([[m in name.split("+") for m in MODALITIES] for name in rows["modalities"]])
    labels = rows[[f"label.{name}" for name in task.finding_names]]
    labels.columns = pd.Index(task.finding_names)
    traits = read_traits(task, manifest_csv, rows["study_id"].tolist())
    return profile(task, mask, traits, labels, int(rows["patient_id"].nunique()))


def read_traits(task: Task, manifest_csv: Path, studies: Sequence[str]) -> pd.DataFrame:
    """Clinical features of a manifest CSV, and age, sex and view where it has them besides.

    Returns:
        A row for each study in their order: numbers as float, all else as text.
    """
    frame = read_manifest_csv(manifest_csv, task, labels_required=False).set_index("study_id")
    frame = frame.loc[list(studies)]
    names = list(task.clinical_names)
    records = ({name: row[name] for name in names} for _, row in frame.iterrows())
    checked = [check_clinical(task.clinical, record) for record in records]
    traits = pd.DataFrame(checked, index=frame.index, columns=names)
    for feature in task.clinical:
        if feature.type == "number":
            traits[feature.name] = traits[feature.name].astype(np.float64)
    for name in TRAITS:
        if name in traits or name not in frame:
            continue
        values = frame[name].map(age_in_years) if name == "age" else frame[name].str.upper()
        traits[name] = pd.to_numeric(values, errors="coerce") if name == "age" else values
    return traits
