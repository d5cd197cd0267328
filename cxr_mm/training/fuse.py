"""Stage `fuse`: embeddings → calibrated fusion with operating points → bundle and held-out figures.

Calibration (for `late`, stacking) uses logits of studies the networks have not seen: by default
out-of-fold ones of train and validation together (van der Laan et al. 2007, super learner), after
which the networks are fitted once more on both.
"""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cxr_mm.core.config import FuseParams, Params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import sha256_file, write_parquet
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task
from cxr_mm.core.types import Modality
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.manifest import Manifest, load_manifest
from cxr_mm.data.profile import manifest_profile
from cxr_mm.data.split import Resample, divisions, group_folds, load_split, resamples
from cxr_mm.models.background import draw_background
from cxr_mm.models.bundle import Bundle, save_bundle
from cxr_mm.models.calibration import subset_mask
from cxr_mm.models.fusion import Fusion, FusionSpec, Part
from cxr_mm.models.image_encoder import load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.training.baseline_image import baseline_image
from cxr_mm.training.calibrate import calibrate, collect_oof_logits
from cxr_mm.training.fusion_fit import (
    Fitted,
    Index,
    Studies,
    load_studies,
    single_threaded,
    train_fusion,
)
from cxr_mm.training.heldout import heldout
from cxr_mm.training.input_gate import input_gate

BACKGROUND_SEED = 0
"""Not the fit's own: explanations of two models are to be compared."""


def fuse(task: Task, params: Params, paths: TaskPaths) -> None:
    """Train, calibrate and save; leaves the bundle, heldout.parquet and divisions.parquet.

    Raises:
        StageError: an earlier stage has not run, or a subset has too few studies to calibrate.
    """
    manifest = load_manifest(paths, task)
    table = load_split(paths)
    studies = replace(
        load_studies(manifest, table, paths), image_head=_learnt_head(task, params, paths)
    )
    rounds = resamples(table)
    if len(rounds) > 1:
        _check_calibration(params.fuse)
    tables, fitted = _predict_unseen(studies, rounds, params.fuse)
    further = [tables.iloc[:0].assign(division=1)]
    for number in range(2, divisions(table) + 1):
        again, _ = _predict_unseen(studies, resamples(table, number), params.fuse)
        further.append(again.assign(division=number))
    train, val = rounds[0].train, rounds[0].val
    if len(rounds) > 1:  # cross-validation measures the recipe; the bundle is it on all studies
        train, val = np.arange(len(manifest)), np.arange(0)
        fitted = fit_fusion(studies, train, val, params.fuse, len(rounds))
    bundle = _bundle(task, params, paths, fitted)
    bundle = replace(
        bundle,
        gate=input_gate(manifest, studies, train, val, params, paths),
        **_background(bundle, manifest, studies, np.concatenate([train, val]), paths),
    )
    bundle.trained_on.update(_trained_on(manifest, studies, rounds, paths))
    save_bundle(bundle, paths.bundle)
    write_parquet(paths.divisions, pd.concat(further, ignore_index=True))
    write_parquet(paths.heldout, tables)


def _background(
    bundle: Bundle, manifest: Manifest, studies: Studies, rows: Index, paths: TaskPaths
) -> dict[str, Any]:
    """What stands for a patient of whom nothing is known."""
    found: dict[str, Any] = {}
    if "tabular" in bundle.task.modalities:
        known = studies.having(rows, subset_mask(("tabular",)))
        found["background"] = draw_background(studies.clinical.iloc[known], BACKGROUND_SEED)
    if "image" in bundle.task.modalities:
        images = studies.embeddings["image"]
        found["baseline_image"] = baseline_image(
            bundle, manifest, rows, images, paths, BACKGROUND_SEED
        )
    return found


def _predict_unseen(
    studies: Studies, rounds: list[Resample], params: FuseParams
) -> tuple[pd.DataFrame, Fitted]:
    """Predictions of every test part by what was fitted without it, and the last that was."""
    tables = []
    for number, part in enumerate(tqdm(rounds, desc="fuse", unit="fit", disable=None)):
        fitted = fit_fusion(studies, part.train, part.val, params, number)
        found = heldout(studies, fitted, part.test, params.operating_point)
        tables.append(found.assign(fold=part.fold))
    return pd.concat(tables, ignore_index=True), fitted


def _learnt_head(task: Task, params: Params, paths: TaskPaths) -> tuple[Tensor, Tensor] | None:
    """The head that the encoder learnt with, where a new one would see only images it has learnt.

    On those an encoder separates the classes nearly without fail, so that a head fitted to its
    embeddings of them learns little of how it sees others.
    """
    learnt = task.has_image and params.train_image.trainable != "frozen"
    if not learnt or params.fuse.fusion != "late" or params.fuse.calibrate_on == "cross_fit":
        return None
    return load_image_encoder(paths.image_encoder).linear_head()


def _check_calibration(params: FuseParams) -> None:
    if params.calibrate_on == "validation":
        raise StageError(
            "with folds the bundle is fitted on all studies, and no validation part is left",
            field="fuse.calibrate_on",
            remedy="Use cross_fit",
        )


@single_threaded()
def fit_fusion(
    studies: Studies, train: Index, val: Index, params: FuseParams, number: int
) -> Fitted:
    """Fit networks, calibration and operating points; `val` may be empty with `cross_fit`."""
    seed = params.seed + 1000 * number
    if params.calibrate_on == "validation":
        if not len(val):
            _check_calibration(params)
        fitted = _networks(studies, train, params, seed)
        unseen = [(fitted, val)]
    else:
        rows = np.sort(np.concatenate([train, val]))
        fitted = _networks(studies, rows, params, seed)
        unseen = list(_cross_fit(studies, rows, params, seed))
    points, conformal = calibrate(
        studies.task, fitted.fusion, collect_oof_logits(studies, unseen), params
    )
    return replace(fitted, points=points, conformal=conformal)


def _cross_fit(
    studies: Studies, rows: Index, params: FuseParams, seed: int
) -> Iterator[tuple[Fitted, Index]]:
    """Networks fitted without each fold, and the rows of that fold."""
    labels = studies.labels[rows].numpy()
    fold = group_folds(labels, studies.groups[rows], params.inner_folds, seed, "fuse.inner_folds")
    for number in range(params.inner_folds):
        inner = _networks(studies, rows[fold != number], params, seed + number + 1)
        yield inner, rows[fold == number]


def _networks(studies: Studies, rows: Index, params: FuseParams, seed: int) -> Fitted:
    """Fit clinical transform and networks on `rows`; calibration is still the identity."""
    torch.manual_seed(seed)
    task = studies.task
    transform = ClinicalTransform.fit(task.clinical, studies.clinical.iloc[rows])
    inputs = {m: values[rows] for m, values in studies.inputs(transform).items()}
    mask, labels = studies.mask[rows], studies.labels[rows]
    parts = {
        m: studies.parts.get(m, (Part(length=int(values.shape[1])),))
        for m, values in inputs.items()
    }
    if studies.image_head is not None:
        parts["image"] = (Part(length=int(inputs["image"].shape[1])),)
    fusion = Fusion(fusion_spec(task, parts, params))
    fusion.fit_standardise(inputs, mask)
    if studies.image_head is not None:
        fusion.freeze_head("image", *studies.image_head)
    train_fusion(fusion, (fusion.clean(inputs, mask), mask, labels), task.problem, params)
    fusion.calibration.fit_prevalence(labels, task.problem)
    return Fitted(fusion, transform, {})


def fusion_spec(
    task: Task, parts: dict[Modality, tuple[Part, ...]], params: FuseParams
) -> FusionSpec:
    """Shape of the fusion for a task's inputs."""
    scales = {
        "image": params.image_scale,
        "tabular": params.tabular_scale,
        "note": params.note_scale,
    }
    return FusionSpec(
        kind=params.fusion,
        parts=parts,
        scales={m: scales[m] for m in parts},
        outputs=len(task.findings),
    )


def _bundle(task: Task, params: Params, paths: TaskPaths, fitted: Fitted) -> Bundle:
    encoder = load_image_encoder(paths.image_encoder) if task.has_image else None
    embed, note_encoder = params.embed, None
    if task.note is not None:
        note_encoder = NoteEncoder.open(embed.note_encoder, embed.note_words)
    return Bundle(
        task=task,
        size=params.ingest.size,
        note_words=embed.note_words,
        fusion=fitted.fusion,
        clinical=fitted.transform,
        image_encoder=encoder,
        note_encoder=note_encoder,
        decision=params.fuse.operating_point,
        operating_points=fitted.points,
        conformal=fitted.conformal,
        trained_on={"params": params.model_dump(mode="json", exclude={"tasks"})},
    )


def _trained_on(
    manifest: Manifest, studies: Studies, rounds: list[Resample], paths: TaskPaths
) -> dict[str, object]:
    rows = np.arange(len(studies.ids))
    if len(rounds) == 1:
        rows = np.concatenate([rounds[0].train, rounds[0].val])
    return {
        "manifest_sha256": sha256_file(paths.manifest),
        "pixels_sha256": sha256_file(paths.pixels) if paths.pixels.exists() else None,
        "studies": len(rows),
        "groups": len(set(studies.groups[rows])),
        "profile": manifest_profile(manifest, rows),
    }
