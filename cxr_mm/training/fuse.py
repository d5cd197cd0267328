"""Stage `fuse`: embeddings → calibrated fusion with operating points → bundle and held-out figures.

Calibration (for `late`, stacking) uses out-of-fold logits of train and validation together (van der
Laan et al. 2007, super learner), after which the networks are fitted once more on both; or logits
of the validation part.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.config import FuseParams, Params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import sha256_file, write_parquet
from cxr_mm.core.fingerprints import Fingerprints
from cxr_mm.core.paths import TaskPaths, bundle_digest
from cxr_mm.core.prediction import Reason
from cxr_mm.core.progress import DIGEST_TAG, UNTRACKED, ProgressBar, Tracking
from cxr_mm.core.shards.work import Load, Run, Work, run_here
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, Modality, subset_name, subsets
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.manifest import ABSENT, Manifest, load_manifest, load_quality
from cxr_mm.data.pixel_cache import open_pixels
from cxr_mm.data.profile import manifest_profile
from cxr_mm.data.split import Resample, divisions, group_folds, load_split, resamples
from cxr_mm.imaging.tensors import normalise
from cxr_mm.inference.table import PredictionTable
from cxr_mm.models.background import MIXED, draw_background, mixtures, without_margin
from cxr_mm.models.bundle import KEY_OF_FINGERPRINTS, Batch, Bundle, save_bundle
from cxr_mm.models.calibration import link, subset_mask
from cxr_mm.models.decision import decide
from cxr_mm.models.fusion import Erasure, Fusion, FusionSpec, Part
from cxr_mm.models.image_encoder import load_image_encoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.training.calibrate import calibrate, calibration_logits
from cxr_mm.training.erasure import fit_erasure
from cxr_mm.training.fusion_fit import (
    FittedFusion,
    Index,
    Studies,
    load_studies,
    single_threaded,
    train_fusion,
)
from cxr_mm.training.input_gate import input_gate
from cxr_mm.training.reweight import independent_rows

BACKGROUND_SEED = 0
"""Not that of the fit, so that explanations of two models can be compared."""


def fuse(
    task: Task,
    params: Params,
    paths: TaskPaths,
    tracking: Tracking = UNTRACKED,
    run: Run = run_here,
) -> None:
    """Train, calibrate and save; leaves the bundle, heldout.parquet and divisions.parquet.

    Args:
        tracking: is told the parameters and the digest of the bundle.
        run: where the fits of cross-validation are computed. Their bytes are the same.

    Raises:
        StageError: an earlier stage has not run, or a subset has too few studies to calibrate.
    """
    tracking.parameters(params.fuse.model_dump())
    manifest = load_manifest(paths, task)
    table = load_split(paths)
    studies = _load_studies(manifest, table, params, paths)
    parts = resamples(table)
    if len(parts) == 1:
        train, val = parts[0].train, parts[0].val
        model = fit_fusion(studies, train, val, params.fuse, 0)
        tables, further = predict_test(studies, model, parts[0], params.fuse, 0), []
    else:  # cross-validation measures the recipe; the bundle applies it to all studies
        tables, *further = _cross_validate(studies, table, params, paths, run)
        train, val = np.arange(len(manifest)), np.arange(0)
        model = fit_fusion(studies, train, val, params.fuse, len(parts))
    bundle = _bundle(task, params, paths, model)
    bundle = replace(
        bundle,
        gate=input_gate(manifest, studies, train, val, params, paths),
        **_background(bundle, manifest, studies, np.concatenate([train, val]), paths),
    )
    trained = np.concatenate([train, val])
    bundle.trained_on.update(_trained_on(manifest, studies, trained, paths))
    bundle = replace(bundle, fingerprints=_fingerprints(bundle, manifest, trained, paths))
    save_bundle(bundle, paths.bundle)
    none = tables.iloc[:0].assign(division=1)
    numbered = [each.assign(division=number) for number, each in enumerate(further, 2)]
    write_parquet(paths.divisions, pd.concat([none, *numbered], ignore_index=True))
    write_parquet(paths.heldout, tables)
    tracking.tag(DIGEST_TAG, bundle_digest(paths.bundle))


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


def _load_studies(
    manifest: Manifest, table: pd.DataFrame, params: Params, paths: TaskPaths
) -> Studies:
    return replace(
        load_studies(manifest, table, paths, params.fuse),
        image_head=_trained_head(manifest.task, params, paths),
    )


Divided = list[list[Resample]]
"""The resamples of each division."""


def _divided(table: pd.DataFrame) -> Divided:
    return [resamples(table, number + 1) for number in range(divisions(table))]


def _cross_validate(
    studies: Studies, table: pd.DataFrame, params: Params, paths: TaskPaths, run: Run
) -> list[pd.DataFrame]:
    """Predict every study by a model fitted without it, in each division."""
    _check_calibration(params.fuse)
    divided = _divided(table)
    load = partial(load_fits, studies, divided, params.fuse)
    if run is not run_here:  # others read the studies, which may be larger than what is sent
        root = replace(paths, root=paths.root.resolve())
        load = partial(_load_fits, studies.task, params, root)
    return predict_unseen(divided, load, run)


def _load_fits(task: Task, params: Params, paths: TaskPaths) -> Work:
    """As `load_fits`, of the studies as the stages before have left them."""
    manifest, table = load_manifest(paths, task), load_split(paths)
    return load_fits(_load_studies(manifest, table, params, paths), _divided(table), params.fuse)


def load_fits(studies: Studies, divided: Divided, params: FuseParams) -> Work:
    """Work whose shards are the resamples of all divisions: fit each and predict its test part."""
    fits = [(number, part) for parts in divided for number, part in enumerate(parts)]

    def work(shards: Sequence[int]) -> Iterator[dict[str, Any]]:
        for shard in shards:
            number, part = fits[shard]
            model = fit_fusion(studies, part.train, part.val, params, number)
            table = predict_test(studies, model, part, params, number)
            yield {"shard": shard, "table": table.to_parquet()}

    return work


def predict_unseen(divided: Divided, load: Load, run: Run = run_here) -> list[pd.DataFrame]:
    """Predict every test part by a model fitted without it; one table for each division.

    Args:
        divided: the resamples of each division.
        load: makes the work of `load_fits`.
        run: where it is done.
    """
    fits = range(sum(map(len, divided)))
    results = ProgressBar(run(load, fits), total=len(fits), desc="fits", unit="fit")
    tables = (pd.read_parquet(BytesIO(result["table"])) for result in results)
    return [pd.concat(list(islice(tables, len(own))), ignore_index=True) for own in divided]


def predict_test(
    studies: Studies, model: FittedFusion, part: Resample, params: FuseParams, number: int
) -> pd.DataFrame:
    """Predict the test part of a resample by its model, and by one without reweighting beside."""
    table = heldout(studies, model, part.test, params.operating_point)
    if studies.strata is not None:
        plain = fit_fusion(replace(studies, strata=None), part.train, part.val, params, number)
        table = _beside_plain(table, heldout(studies, plain, part.test, params.operating_point))
    return table.assign(fold=part.fold)


def _beside_plain(table: pd.DataFrame, plain: pd.DataFrame) -> pd.DataFrame:
    """Add what a model without reweighting predicts of the same rows, for `evaluate`."""
    kinds = ("probability", "positive", "threshold")
    columns = [name for name in map(str, plain) if name.partition(".")[0] in kinds]
    return table.assign(**{f"plain.{name}": plain[name] for name in columns})


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
    oof = calibration_logits(studies, unseen, params.calibrate_images)
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
    if studies.strata is not None:
        rows = independent_rows(rows, studies.strata, studies.labels.numpy(), seed)
    transform = ClinicalTransform.fit(task.clinical, studies.clinical.iloc[rows])
    inputs, mask, labels = studies.training_rows(transform, rows)
    parts = {
        m: studies.parts.get(m, (Part(length=int(values.shape[1])),))
        for m, values in inputs.items()
    }
    if studies.image_head is not None:
        parts["image"] = (Part(length=int(inputs["image"].shape[1])),)
    erasure = _erasure(studies, rows, params)
    fusion = Fusion(fusion_spec(task, parts, params, erased=len(erasure.read) if erasure else 0))
    fusion.erasure = erasure
    fusion.fit_standardise(inputs, mask)
    if studies.image_head is not None:
        fusion.freeze_head("image", *studies.image_head)
    train_fusion(fusion, (fusion.clean(inputs, mask), mask, labels), task.problem, params)
    if params.calibrate_prevalence == "training":
        fusion.calibration.fit_prevalence(studies.labels[rows], task.problem)
    return FittedFusion(fusion, transform, {})


def _erasure(studies: Studies, rows: Index, params: FuseParams) -> Erasure | None:
    """Fit what takes the concepts out of image embeddings; None where nothing is to be erased."""
    if studies.concepts is None:
        return None
    rows = studies.having(rows, subset_mask(("image",)))
    embeddings = studies.embeddings["image"][rows].numpy()
    return fit_erasure(embeddings, studies.concepts[rows], params.erase_strength)


def fusion_spec(
    task: Task, parts: dict[Modality, tuple[Part, ...]], params: FuseParams, erased: int = 0
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
        erased=erased,
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
        mask_text=params.ingest.mask_text,
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
    manifest: Manifest, studies: Studies, rows: Index, paths: TaskPaths
) -> dict[str, object]:
    return {
        KEY_OF_FINGERPRINTS: sha256_file(paths.manifest),
        "pixels_sha256": sha256_file(paths.pixels) if paths.pixels.exists() else None,
        "studies": len(rows),
        "groups": len(set(studies.groups[rows])),
        "profile": manifest_profile(manifest, rows),
    }


def _fingerprints(
    bundle: Bundle, manifest: Manifest, rows: Index, paths: TaskPaths
) -> Fingerprints:
    """Of the studies trained on, so that another table can be searched for them."""
    values = {
        "study_id": manifest.frame["study_id"].iloc[rows],
        "patient_id": manifest.frame["patient_id"].iloc[rows],
        "image": load_quality(paths)["file_sha256"].iloc[rows],
    }
    return Fingerprints.of(str(bundle.trained_on[KEY_OF_FINGERPRINTS]), values)


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


IMAGES, CANDIDATES = 100, 100
"""Training images that are mixed, and mixtures to choose from."""
BATCH = 16
"""Images embedded together."""


def baseline_image(
    bundle: Bundle, manifest: Manifest, rows: Index, embeddings: Tensor, paths: TaskPaths, seed: int
) -> NDArray[np.uint8] | None:
    """Choose the image that replaces removed regions and stands for an uninformative study.

    Args:
        bundle: the model; its task has an image.
        manifest: all studies.
        rows: rows of the training studies.
        embeddings: (N, D) of the images of all studies.
        paths: of the task.
        seed: of the random choices.

    Returns:
        uint8 (S, S) without black margins; None where there are too few images.
    """
    position = manifest.frame["pixel_row"].to_numpy(np.int64)
    rows = rows[position[rows] != ABSENT]
    if len(rows) < MIXED:
        return None
    sample = np.random.default_rng(seed).permutation(rows)[:IMAGES]
    pixels = open_pixels(paths.pixels)
    images = np.stack([without_margin(np.asarray(pixels[position[row]])) for row in sample])
    candidates = mixtures(images, CANDIDATES, seed)
    usual = _logits(bundle, embeddings[torch.from_numpy(rows)])
    logits = torch.cat(
        [
            _logits(bundle, _embed(bundle, candidates[k : k + BATCH]))
            for k in range(0, len(candidates), BATCH)
        ]
    )
    spread = usual.std(0, correction=0) + 1e-6
    distance = ((logits - usual.mean(0)) / spread).square().sum(1)
    chosen: NDArray[np.uint8] = candidates[int(distance.argmin())]
    return chosen


def _embed(bundle: Bundle, images: NDArray[np.uint8]) -> Tensor:
    mask = subset_mask(("image",)).expand(len(images), -1)
    return bundle.embeddings(Batch(mask=mask, image=normalise(images)))["image"]


@torch.inference_mode()
def _logits(bundle: Bundle, embeddings: Tensor) -> Tensor:
    """Logits (B, F) from the image alone."""
    inputs = {
        m: embeddings if m == "image" else torch.zeros(len(embeddings), width)
        for m, width in bundle.fusion.spec.dims.items()
    }
    mask = subset_mask(("image",)).expand(len(embeddings), -1)
    return bundle.logits(inputs, mask)
