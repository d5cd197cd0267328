"""Stage `fuse`: embeddings → calibrated fusion with operating points → bundle and held-out figures.

Calibration (for `late`, stacking) uses logits of studies the networks have not seen: by default
out-of-fold ones of train and validation together (van der Laan et al. 2007, super learner), after
which the networks are fitted once more on both.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import lightning as pl
import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from cxr_mm.contracts.modality import Modality, subset_name, subsets
from cxr_mm.contracts.task import Problem, Task
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.split import Resample, load_split, resamples
from cxr_mm.errors import StageError
from cxr_mm.files import sha256_file, write_parquet
from cxr_mm.models.bundle import Bundle, save_bundle
from cxr_mm.models.calibration import Calibration, link, subset_mask
from cxr_mm.models.conformal import Conformal, fit_bounds
from cxr_mm.models.fusion import Fusion, FusionSpec, Part
from cxr_mm.models.image_encoder import load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.operating_point import OperatingPoints, choose_operating_points
from cxr_mm.params import FuseParams, Params
from cxr_mm.paths import TaskPaths
from cxr_mm.training.cross_fit import group_folds
from cxr_mm.training.film_gate import film_gate
from cxr_mm.training.fitted import Fitted
from cxr_mm.training.fusion_module import FusionModule, ShuffledRows, train_fusion
from cxr_mm.training.heldout import heldout
from cxr_mm.training.loss import class_weights
from cxr_mm.training.studies import Index, Studies, load_studies
from cxr_mm.training.threads import one_thread

RARER = 100
"""Studies of the rarer class from which `auto` takes isotonic calibration."""


def fuse(task: Task, params: Params, paths: TaskPaths) -> None:
    """Train, calibrate and save; leaves the bundle and heldout.parquet.

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
    tables = []
    for number, part in enumerate(tqdm(rounds, desc="fuse", unit="fit", disable=None)):
        fitted = fit_fusion(studies, part.train, part.val, params.fuse, number)
        tables.append(
            heldout(studies, fitted, part.test, params.fuse.operating_point).assign(fold=part.fold)
        )
    train, val = rounds[0].train, rounds[0].val
    if len(rounds) > 1:  # cross-validation measures the recipe; the bundle is it on all studies
        train, val = np.arange(len(manifest)), np.arange(0)
        fitted = fit_fusion(studies, train, val, params.fuse, len(rounds))
    gate = film_gate(manifest, studies.groups, train, val, params, paths)
    bundle = replace(_bundle(task, params, paths, fitted), gate=gate)
    bundle.trained_on.update(_trained_on(studies, rounds, paths))
    save_bundle(bundle, paths.bundle)
    write_parquet(paths.heldout, pd.concat(tables, ignore_index=True))


def _learnt_head(task: Task, params: Params, paths: TaskPaths) -> tuple[Tensor, Tensor] | None:
    """The head that the encoder learnt with, where a new one would see only films it has learnt.

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


@one_thread()
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
    points, conformal = _calibrate(studies.task, fitted.fusion, _evidence(studies, unseen), params)
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
    pl.seed_everything(seed, verbose=False)
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
        fusion.adopt_head("image", *studies.image_head)
    size = len(rows) if params.fusion == "late" else params.batch_size
    batches = ShuffledRows(fusion.clean(inputs, mask), mask, labels, size)
    steps = params.epochs * len(batches)
    weight = torch.ones(2, labels.shape[1])
    if params.class_weights:
        weight = class_weights(labels, task.problem)
    if any(p.requires_grad for p in fusion.parameters()):
        module = FusionModule(fusion, task.problem, params, len(rows), steps, weight)
        train_fusion(module, batches)
    fusion.eval()
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
        hidden=params.hidden,
        tabular_hidden=params.tabular_hidden,
        dropout=params.dropout,
        members=params.members,
    )


@dataclass(frozen=True)
class Evidence:
    """What networks say of studies they were not trained on, shown one subset of modalities."""

    subset: tuple[Modality, ...]
    columns: Tensor
    labels: Tensor
    fold: Tensor


@torch.inference_mode()
def _evidence(studies: Studies, unseen: list[tuple[Fitted, Index]]) -> list[Evidence]:
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
        found.append(Evidence(subset, torch.cat(columns), torch.cat(labels), torch.cat(folds)))
    return found


def _calibrate(
    task: Task, fusion: Fusion, evidence: list[Evidence], params: FuseParams
) -> tuple[OperatingPoints, Conformal]:
    """Fit the calibration of each subset in place, choose its operating points and bounds."""
    points: OperatingPoints = {}
    conformal: Conformal = {}
    if fusion.spec.kind == "late":
        _blend_parts(task, fusion.calibration, evidence, params)
    for seen in evidence:
        shown = subset_mask(seen.subset)
        # Copies, because what inference mode made cannot take part in a fit.
        columns, labels = seen.columns.clone(), seen.labels.clone()
        _fit_calibration(fusion.calibration, shown, columns, labels, task.problem, params)
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


def _blend_parts(
    task: Task, calibration: Calibration, evidence: list[Evidence], params: FuseParams
) -> None:
    spread = params.calibration_spread
    for seen in evidence:
        if len(seen.subset) == 1:
            columns, labels = seen.columns.clone(), seen.labels.clone()
            calibration.fit_parts(
                seen.subset[0], columns, labels, task.problem, spread, seen.fold.clone()
            )


def _fit_calibration(
    calibration: Calibration,
    shown: Tensor,
    columns: Tensor,
    labels: Tensor,
    problem: Problem,
    params: FuseParams,
) -> None:
    calibration.fit_subset(shown, columns, labels, problem, params.calibration_spread)
    if problem != "multiclass" and params.calibration != "parametric":
        least = (params.isotonic_from, RARER) if params.calibration == "auto" else (0, 1)
        calibration.fit_isotonic(shown, columns, labels, *least)


def _bundle(task: Task, params: Params, paths: TaskPaths, fitted: Fitted) -> Bundle:
    encoder = load_image_encoder(paths.image_encoder) if task.has_image else None
    embed, note_encoder = params.embed, None
    if task.note is not None:
        note_encoder = NoteEncoder.open(embed.note_encoder, embed.note_tokens, embed.note_words)
    return Bundle(
        task=task,
        size=params.ingest.size,
        note_tokens=embed.note_tokens,
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


def _trained_on(studies: Studies, rounds: list[Resample], paths: TaskPaths) -> dict[str, object]:
    rows = np.arange(len(studies.ids))
    if len(rounds) == 1:
        rows = np.concatenate([rounds[0].train, rounds[0].val])
    return {
        "manifest_sha256": sha256_file(paths.manifest),
        "pixels_sha256": sha256_file(paths.pixels) if paths.pixels.exists() else None,
        "studies": len(rows),
        "groups": len(set(studies.groups[rows])),
    }
