"""New bundle: recalibrated on another centre's studies, beside the old one, never in its place."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from cxr_mm.contracts.modality import subset_name
from cxr_mm.contracts.task import Task
from cxr_mm.errors import InputError, ManifestError
from cxr_mm.evaluation.recalibration import (
    FOLDS,
    Aims,
    Recalibration,
    cross_validated,
    rarer_class,
    what_it_brings,
)
from cxr_mm.evaluation.subsets import AVAILABLE, SMALLEST, subset_rows
from cxr_mm.files import sha256_file
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.bundle_files import INDEX, save_bundle
from cxr_mm.models.recalibration import recalibrate
from cxr_mm.params import EvaluateParams


def offer(
    bundle: Bundle, table: pd.DataFrame, found: Recalibration, params: EvaluateParams
) -> dict[str, Any]:
    """What would be changed, and what that brings to patients it was not learnt from."""
    if not found:
        return {"left": found.left, "brings": None}
    after = cross_validated(bundle.task, table, found, Aims.of(bundle), params.seed)
    brings = what_it_brings(bundle.task, table, after, params)
    return {"folds": FOLDS, **_told(found), "brings": brings}


def _told(found: Recalibration) -> dict[str, Any]:
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
    manifest_csv: Path,
    folder: Path,
) -> str:
    """Write the recalibrated bundle, with its origin and what was to be warned of; its digest."""
    rows = subset_rows(table, AVAILABLE)
    labels = rows[[f"label.{name}" for name in bundle.task.finding_names]].to_numpy(np.float32)
    record = {
        "manifest": manifest_csv.name,
        "manifest_sha256": sha256_file(manifest_csv),
        "studies": metrics["n_studies"],
        "patients": metrics["n_patients"],
        "aims": asdict(Aims.of(bundle)),
        "warnings": metrics["first_look"]["warnings"],
        **_told(found),
    }
    new = recalibrate(
        bundle, found.updates, found.points, found.bounds, torch.tensor(labels), record
    )
    _check_absent(folder)  # again: reading films took its time
    return save_bundle(new, folder)


def check_enough(task: Task, rows: pd.DataFrame, manifest_csv: Path) -> None:
    """Some finding must have patients enough of both labels, before any film is read."""
    counts = {name: rarer_class(task, rows, name) for name in task.finding_names}
    best = max(counts, key=lambda name: counts[name])
    if counts[best] < SMALLEST:
        raise ManifestError(
            f"{counts[best]} patients of the rarer class of {best} are too few to recalibrate on,"
            f" {SMALLEST} are needed",
            field=str(manifest_csv),
            remedy=f"Label {SMALLEST - counts[best]} more, or evaluate without recalibration",
        )


def check_found(found: Recalibration, manifest_csv: Path) -> None:
    """Rows may have turned out bad, or be divided among subsets that are too small each."""
    if not found:
        raise ManifestError(
            f"no subset of the modalities has {SMALLEST} patients of the rarer class",
            field=str(manifest_csv),
            remedy="Label more studies, mend bad rows, or evaluate without recalibration",
        )


def check_place(folder: Path, out: Path) -> None:
    """A new bundle takes the place of nothing, and is no part of another or of the report."""
    _check_absent(folder)
    here, report = folder.resolve(), out.resolve()
    if report in (here, *here.parents) or here in report.parents:
        raise InputError(
            f"it and the folder of the report ({out}) must not hold each other",
            field=str(folder),
            remedy="Choose a folder beside it",
        )
    check_no_bundle(folder)


def check_no_bundle(folder: Path) -> None:
    """Nothing may be written into a bundle, which a foreign file makes unreadable."""
    for place in (folder.resolve(), *folder.resolve().parents):
        if (place / INDEX).exists():
            raise InputError(
                f"nothing may be written into the bundle {place}",
                field=str(folder),
                remedy="Choose another folder",
            )


def _check_absent(folder: Path) -> None:
    if folder.exists() or folder.is_symlink():
        raise InputError(
            "exists already, and a bundle is never overwritten",
            field=str(folder),
            remedy="Choose another folder",
        )
