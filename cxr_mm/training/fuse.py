"""Stage `fuse`: embeddings → calibrated fusion with operating points → bundle and held-out figures.

Calibration (for `late`, stacking) uses out-of-fold logits of train and validation together (van der
Laan et al. 2007, super learner), after which the networks are fitted once more on both; or logits
of the validation part.
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
    FittedFusion,
    Index,
    Studies,
    load_studies,
    single_threaded,
    train_fusion,
)
from cxr_mm.training.heldout import heldout
from cxr_mm.training.input_gate import input_gate

BACKGROUND_SEED = 0
"""Not that of the fit, so that explanations of two models can be compared."""


def fuse(task: Task, params: Params, paths: TaskPaths) -> None:
    """Train, calibrate and save; leaves the bundle, heldout.parquet and divisions.parquet.

    Raises:
        StageError: an earlier stage has not run, or a subset has too few studies to calibrate.
    """
    manifest = load_manifest(paths, task)
    table = load_split(paths)
    studies = replace(
        load_studies(manifest, table, paths), image_head=_trained_head(task, params, paths)
    )
    parts = resamples(table)
    if len(parts) > 1:
        _check_calibration(params.fuse)
    tables, model = _predict_unseen(studies, parts, params.fuse)
    further = [tables.iloc[:0].assign(division=1)]
    for number in range(2, divisions(table) + 1):
        again, _ = _predict_unseen(studies, resamples(table, number), params.fuse)
        further.append(again.assign(division=number))
    train, val = parts[0].train, parts[0].val
    if len(parts) > 1:  # cross-validation measures the recipe; the bundle applies it to all studies
        train, val = np.arange(len(manifest)), np.arange(0)
        model = fit_fusion(studies, train, val, params.fuse, len(parts))
    bundle = _bundle(task, params, paths, model)
    bundle = replace(
        bundle,
        gate=input_gate(manifest, studies, train, val, params, paths),
        **_background(bundle, manifest, studies, np.concatenate([train, val]), paths),
    )
    bundle.trained_on.update(_trained_on(manifest, studies, parts, paths))
    save_bundle(bundle, paths.bundle)
    write_parquet(paths.divisions, pd.concat(further, ignore_index=True))
    write_parquet(paths.heldout, tables)


def _background(
    bundle: Bundle, manifest: Manifest, studies: Studies, rows: Index, paths: TaskPaths
) -> dict[str, Any]:
    """Clinical rows and image that stand for a patient of whom nothing is known."""
    background: dict[str, Any] = {}
    if "tabular" in bundle.task.modalities:
        known = studies.having(rows, subset_mask(("tabular",)))
        background["background"] = draw_background(studies.clinical.iloc[known], BACKGROUND_SEED)
    if "image" in bundle.task.modalities:
        images = studies.embeddings["image"]
        background["baseline_image"] = baseline_image(
            bundle, manifest, rows, images, paths, BACKGROUND_SEED
        )
    return background


def _predict_unseen(
    studies: Studies, parts: list[Resample], params: FuseParams
) -> tuple[pd.DataFrame, FittedFusion]:
    """Predict every test part by a model fitted without it; the last model is returned too."""
    tables = []
    for number, part in enumerate(tqdm(parts, desc="fuse", unit="fit", disable=None)):
        model = fit_fusion(studies, part.train, part.val, params, number)
        table = heldout(studies, model, part.test, params.operating_point)
        tables.append(table.assign(fold=part.fold))
    return pd.concat(tables, ignore_index=True), model


def _trained_head(task: Task, params: Params, paths: TaskPaths) -> tuple[Tensor, Tensor] | None:
    """Return the head that the encoder was trained with, where `fuse` must not fit a new one.

    A trained encoder separates the classes of its own training images almost perfectly, so a head
    fitted to their embeddings would not carry over to new images.
    """
    trained = task.has_image and params.train_image.trainable != "frozen"
    if not trained or params.fuse.fusion != "late" or params.fuse.calibrate_on == "cross_fit":
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
) -> FittedFusion:
    """Fit networks, calibration and operating points; `val` may be empty with `cross_fit`."""
    seed = params.seed + 1000 * number
    if params.calibrate_on == "validation":
        if not len(val):
            _check_calibration(params)
        model = _networks(studies, train, params, seed)
        unseen = [(model, val)]
    else:
        rows = np.sort(np.concatenate([train, val]))
        model = _networks(studies, rows, params, seed)
        unseen = list(_cross_fit(studies, rows, params, seed))
    oof = collect_oof_logits(studies, unseen)
    points, conformal = calibrate(studies.task, model.fusion, oof, params)
    return replace(model, points=points, conformal=conformal)


def _cross_fit(
    studies: Studies, rows: Index, params: FuseParams, seed: int
) -> Iterator[tuple[FittedFusion, Index]]:
    """Yield networks fitted without each fold, with the rows of that fold."""
    labels = studies.labels[rows].numpy()
    fold = group_folds(labels, studies.groups[rows], params.inner_folds, seed, "fuse.inner_folds")
    for number in range(params.inner_folds):
        inner = _networks(studies, rows[fold != number], params, seed + number + 1)
        yield inner, rows[fold == number]


def _networks(studies: Studies, rows: Index, params: FuseParams, seed: int) -> FittedFusion:
    """Fit clinical transform and networks on `rows`, not yet the calibration."""
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
    return FittedFusion(fusion, transform, {})


def fusion_spec(
    task: Task, parts: dict[Modality, tuple[Part, ...]], params: FuseParams
) -> FusionSpec:
    """Specify the fusion for a task's inputs."""
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


def _bundle(task: Task, params: Params, paths: TaskPaths, model: FittedFusion) -> Bundle:
    encoder = load_image_encoder(paths.image_encoder) if task.has_image else None
    embed, note_encoder = params.embed, None
    if task.note is not None:
        note_encoder = NoteEncoder.open(embed.note_encoder, embed.note_words)
    return Bundle(
        task=task,
        size=params.ingest.size,
        note_words=embed.note_words,
        fusion=model.fusion,
        clinical=model.transform,
        image_encoder=encoder,
        note_encoder=note_encoder,
        decision=params.fuse.operating_point,
        operating_points=model.points,
        conformal=model.conformal,
        trained_on={"params": params.model_dump(mode="json", exclude={"tasks"})},
    )


def _trained_on(
    manifest: Manifest, studies: Studies, parts: list[Resample], paths: TaskPaths
) -> dict[str, object]:
    rows = np.arange(len(studies.ids))
    if len(parts) == 1:
        rows = np.concatenate([parts[0].train, parts[0].val])
    return {
        "manifest_sha256": sha256_file(paths.manifest),
        "pixels_sha256": sha256_file(paths.pixels) if paths.pixels.exists() else None,
        "studies": len(rows),
        "groups": len(set(studies.groups[rows])),
        "profile": manifest_profile(manifest, rows),
    }
