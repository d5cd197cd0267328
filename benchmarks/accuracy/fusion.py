"""Part `fusion`: one model for every subset of modalities, against specialists and baselines.

Every task with several modalities that `dvc repro` has embedded, by cross-validation over patients:
the folds of the task where it has some, else five. An official test part is never touched.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from sklearn.decomposition import PCA
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from benchmarks.harness.outputs import after, fields_of
from benchmarks.harness.parts import Row
from cxr_mm.core.config import EvaluateParams, FuseParams, for_task, load_params
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.task import Task, load_task, shipped_tasks
from cxr_mm.core.types import AVAILABLE, Modality, subset_name, subsets
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.split import Resample, group_folds, load_split, resamples
from cxr_mm.evaluation.delong import auc_estimate
from cxr_mm.evaluation.limits import ece_estimate
from cxr_mm.evaluation.metrics import Scored
from cxr_mm.evaluation.resampling import Estimate, Weights, mean_of, multiplicities
from cxr_mm.evaluation.subsets import subset_order, subset_rows
from cxr_mm.models.calibration import subset_mask
from cxr_mm.models.fusion import KINDS, FusionKind
from cxr_mm.training.fuse import fit_fusion, heldout
from cxr_mm.training.fusion_fit import BATCH, Index, Studies, load_studies
from cxr_mm.training.history import HISTORY

STEPS = 150
"""Steps of gradient descent for `concat` and `gated`. Of 60 to 1000 tried on out-of-fold studies of
`synthetic` and `icu` 125 to 200 were best; beyond that they learn the training studies by heart."""


def fused(studies: Studies, part: Resample, params: FuseParams, kind: FusionKind) -> pd.DataFrame:
    """One model of the kind, trained once, used with every subset."""
    chosen = _of_kind(params, kind, part)
    fit = fit_fusion(studies, part.train, part.val, chosen, part.fold)
    return heldout(studies, fit, part.test, chosen.operating_point)


def _of_kind(params: FuseParams, kind: FusionKind, part: Resample) -> FuseParams:
    changes: dict[str, object] = {"fusion": kind}
    if kind != "late":
        batches = -(-(len(part.train) + len(part.val)) // BATCH)
        changes["epochs"] = -(-STEPS // batches)
    return params.model_copy(update=changes)


def specialists(
    studies: Studies, part: Resample, params: FuseParams, kind: FusionKind
) -> pd.DataFrame:
    """For each subset a model that never sees anything else, and is never left without any of it.

    It is trained on the studies that have the whole subset.
    """
    chosen = _of_kind(params, kind, part).model_copy(update={"modality_dropout": 0.0})
    tables = []
    for subset in subsets(studies.task.modalities):
        alone, shown = restricted(studies, subset), subset_mask(subset)
        train, val = (studies.having(rows, shown) for rows in (part.train, part.val))
        fit = fit_fusion(alone, train, val, chosen, part.fold)
        table = heldout(alone, fit, part.test, chosen.operating_point)
        tables.append(table[table["subset"] == subset_name(subset)])
    return pd.concat(tables, ignore_index=True)


def restricted(studies: Studies, subset: tuple[Modality, ...]) -> Studies:
    """The same studies as if no modality outside the subset had ever been recorded."""
    task = studies.task.model_copy(
        update={
            "has_image": "image" in subset,
            "clinical": studies.task.clinical if "tabular" in subset else (),
            "note": studies.task.note if "note" in subset else None,
        }
    )
    return replace(
        studies,
        task=task,
        embeddings={m: rows for m, rows in studies.embeddings.items() if m in subset},
        mask=studies.mask & subset_mask(subset),
    )


def averaged(table: pd.DataFrame, task: Task) -> pd.DataFrame:
    """Mean over the modalities shown of the calibrated probabilities that single ones give.

    Args:
        table: of `fused` with kind `late`, whose heads are trained alone; each study once.
        task: names the findings and modalities.
    """
    columns = [f"probability.{name}" for name in task.finding_names]
    result = table.reset_index(drop=True)
    chances = []
    for modality in task.modalities:
        alone = table[table["subset"] == modality].set_index("study_id")[columns]
        requested = [s == AVAILABLE or modality in s.split("+") for s in result["subset"]]
        own = alone.reindex(result["study_id"]).to_numpy(np.float64)
        chances.append(np.where(np.array(requested)[:, None], own, np.nan))
    return result.assign(**dict(zip(columns, np.nanmean(chances, axis=0).T, strict=True)))


EVERY = "fusion: every model"
SPECIALIST = "specialist"
WITHIN = -0.01
"""How far the fused model may be from a specialist."""
CALIBRATED = 0.05
"""The most that the calibration error may be where there are studies enough to tell it."""


@dataclass(frozen=True)
class Compared:
    """Held-out predictions of one model in all rounds, and how long it took."""

    table: pd.DataFrame
    seconds: float


Seen = dict[str, Estimate]
"""AUC and calibration error (`auc`, `ece`) of one model on one subset, the mean over findings."""


def rows_of(
    task: Task, compared: dict[str, Compared], fuse: FuseParams, evaluate: EvaluateParams
) -> list[Row]:
    """What is required of the task's own kind of fusion, then every model beside it."""
    own = fuse.fusion
    required: list[Row] = []
    every: list[Row] = []
    for subset in subset_order(task):
        frames = {m: subset_rows(found.table, subset) for m, found in compared.items()}
        frames = {model: frame for model, frame in frames.items() if len(frame)}
        if not frames:
            continue
        seen = {model: figures(task, frame, evaluate) for model, frame in frames.items()}
        row = partial(_row, task=task.name, n=len(frames[own]), seed=evaluate.seed)
        limit = CALIBRATED if task.synthetic else None
        required += _calibration_and_loss(row, subset, seen, own, limit)
        if "+" in subset:
            singles = _singles(task, compared[own].table, subset, evaluate)
            least = 0.0 if task.synthetic else None
            required.append(_gain(row, subset, seen[own]["auc"], singles, least))
        every += _every(row, subset, seen, own, compared)
    return [*required, *every]


def figures(task: Task, frame: pd.DataFrame, params: EvaluateParams) -> Seen:
    """Figures of one model on the studies of a frame, one row each.

    The resamples depend on the studies' groups alone, so that two models of the same studies
    can be subtracted.
    """
    weights = multiplicities(frame["group"], params.bootstrap, params.seed)
    found = [_finding(frame, name, weights) for name in task.finding_names]
    return {metric: mean_of([each[metric] for each in found]) for metric in ("auc", "ece")}


def _finding(frame: pd.DataFrame, finding: str, weights: Weights) -> Seen:
    chances = frame[f"probability.{finding}"]
    scored, labelled = Scored.known(frame[f"label.{finding}"], chances, chances >= 0.5)
    own, patients = weights[:, labelled], frame.loc[labelled, "group"]
    return {
        "auc": auc_estimate(scored, own, patients),
        "ece": ece_estimate(scored, own, patients),
    }


def _singles(
    task: Task, table: pd.DataFrame, subset: str, params: EvaluateParams
) -> dict[str, Estimate]:
    """AUC of each modality of a subset alone, on the studies that have all of the subset."""
    studies = subset_rows(table, subset)["study_id"]
    found = {}
    for modality in subset.split("+"):
        frame = subset_rows(table, modality)
        same = frame[frame["study_id"].isin(studies)].reset_index(drop=True)
        found[modality] = figures(task, same, params)["auc"]
    return found


def _calibration_and_loss(
    row: Callable[..., Row], subset: str, seen: dict[str, Seen], own: str, must: float | None
) -> list[Row]:
    """Calibration error, and distance from the better of the specialists on these very studies."""
    rows = [row(f"{subset}: {own}", "ece", seen[own]["ece"], must=must, ceiling=must is not None)]
    experts = {model: s for model, s in seen.items() if model.startswith(SPECIALIST)}
    if experts:
        best = max(experts, key=lambda model: experts[model]["auc"].value)
        loss = seen[own]["auc"] - experts[best]["auc"]
        rows.append(row(f"{subset}: {own} minus {best}", "auc", loss, reference=0.0, must=WITHIN))
    return rows


def _gain(
    row: Callable[..., Row],
    subset: str,
    together: Estimate,
    singles: dict[str, Estimate],
    must: float | None,
) -> Row:
    """Distance from the best single modality, whose lower limit must reach `must`."""
    best = max(singles, key=lambda modality: singles[modality].value)
    difference = together - singles[best]
    return row(f"{subset} minus {best} alone", "auc", difference, reference=0.0, must=must)


def _every(
    row: Callable[..., Row],
    subset: str,
    seen: dict[str, Seen],
    own: str,
    compared: dict[str, Compared],
) -> list[Row]:
    """AUC, calibration error and distance from the task's own kind, of every model."""
    rows = []
    for model, found in seen.items():
        write, seconds = partial(row, f"{subset}: {model}", table=EVERY), compared[model].seconds
        rows += [write(metric, estimate, seconds=seconds) for metric, estimate in found.items()]
        if model != own:
            rows.append(write(f"auc minus {own}", found["auc"] - seen[own]["auc"], reference=0.0))
    return rows


def _row(row: str, metric: str, found: Estimate, **facts: Any) -> Row:
    return Row(row=row, metric=metric, **fields_of(found), **facts)


FOLDS = 5
RECIPES: tuple[FusionKind, ...] = ("late", "concat")
"""What specialists are made by: heads that are weighed, and a perceptron over all at once."""
NOTHING = np.zeros(0, dtype=np.int64)


def measure() -> list[Row]:
    """Rows of every shipped task that can be compared; says which are left out."""
    tasks = {name: load_task(name) for name in shipped_tasks()}
    fit = [n for n, t in tasks.items() if len(t.modalities) > 1 and t.problem != "multiclass"]
    found = after("embed", "fusion", fit)
    return [row for paths in found for row in measure_task(tasks[paths.task], paths)]


def measure_task(task: Task, paths: TaskPaths) -> list[Row]:
    """Rows of one task whose embeddings are there."""
    params = for_task(load_params(), task)
    table = load_split(paths)
    studies = load_studies(load_manifest(paths, task), table, paths, params.fuse)
    parts = divided(studies, table, learnt(paths))
    return rows_of(task, compare(studies, parts, params.fuse), params.fuse, params.evaluate)


def learnt(paths: TaskPaths) -> bool:
    """Whether the image encoder has learnt from studies of the task."""
    history = read_json(paths.image_encoder / HISTORY)
    return "skipped" not in history and history["params"]["trainable"] != "frozen"


def divided(studies: Studies, table: pd.DataFrame, learnt: bool) -> list[Resample]:
    """Trainings and what each is tested on.

    Args:
        studies: all of the task.
        table: what `split` left.
        learnt: whether the image encoder has seen the training part, so that only the task's own
            test part (of an official split, its validation part) is new to it.
    """
    part, official = table["part"], studies.task.split.protocol == "official"
    if (part == "").all() or (learnt and not official):
        return resamples(table)
    train, val, test = (np.flatnonzero(part == name) for name in ("train", "val", "test"))
    if learnt:
        return [Resample(0, train, NOTHING, val)]
    rows = np.sort(np.concatenate([train, val, NOTHING if official else test]))
    labels = studies.labels[rows].numpy()
    fold = group_folds(labels, studies.groups[rows], FOLDS, 0, "fusion")
    return [Resample(k, rows[fold != k], NOTHING, rows[fold == k]) for k in range(FOLDS)]


def compare(studies: Studies, parts: list[Resample], params: FuseParams) -> dict[str, Compared]:
    """Predictions of every model for every subset, by model; rounds one below the other."""
    models = [*KINDS, *(f"specialist {kind}" for kind in RECIPES), *LEARN]
    run, count = joblib.delayed(_run), len(parts)
    jobs = (run(studies, model, part, params) for model in models for part in parts)
    done = joblib.Parallel(n_jobs=-1)(jobs)
    found = {}
    for number, model in enumerate(models):
        tables, seconds = zip(*done[number * count : (number + 1) * count], strict=True)
        found[model] = Compared(pd.concat(tables, ignore_index=True), sum(seconds))
    late = found["late"]
    found["late averaging"] = Compared(averaged(late.table, studies.task), late.seconds)
    return found


def _run(
    studies: Studies, model: str, part: Resample, params: FuseParams
) -> tuple[pd.DataFrame, float]:
    """One model of one round: a kind of fusion, `specialist KIND` or the name of a baseline."""
    torch.set_num_threads(1)  # as many jobs run side by side as there are cores
    if not len(part.val):
        params = params.model_copy(update={"calibrate_on": "cross_fit"})
    started = time.perf_counter()
    if model in LEARN:
        table = baseline(studies, part, model)
    elif model in KINDS:
        table = fused(studies, part, params, model)
    else:
        kind = next(kind for kind in RECIPES if model.endswith(kind))
        table = specialists(studies, part, params, kind)
    return table.assign(fold=part.fold), time.perf_counter() - started


Floats = NDArray[np.float64]
Blocks = dict[Modality, Floats]
"""Per modality (N, D), NaN in the rows of studies that have none."""
Answer = Callable[[Blocks], Floats]
"""Blocks → probability (N,)."""
Learn = Callable[[Blocks, Floats, NDArray[np.object_]], Answer]
"""Blocks, labels (N,) of 1 and 0, groups (N,) → what answers."""
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
"""Inverse penalties tried for the logistic regressions."""
REDUCED = 32
"""Principal components of an embedding that the trees see."""
INNER_FOLDS = 3


def baseline(studies: Studies, part: Resample, name: str) -> pd.DataFrame:
    """Predictions of one baseline on the test part, for each subset and for what each study has."""
    train = np.sort(np.concatenate([part.train, part.val]))
    transform = ClinicalTransform.fit(studies.task.clinical, studies.clinical.iloc[train])
    blocks = _blocks(studies, transform)
    labels = studies.labels.numpy().astype(np.float64)
    answers = []
    for f in range(labels.shape[1]):
        rows = train[np.isfinite(labels[train, f])]
        answers.append(LEARN[name](_rows(blocks, rows), labels[rows, f], studies.groups[rows]))
    return _answers_of(studies, blocks, answers, part.test)


def _blocks(studies: Studies, transform: ClinicalTransform) -> Blocks:
    blocks = {m: rows.numpy().astype(np.float64) for m, rows in studies.inputs(transform).items()}
    for modality, rows in blocks.items():
        rows[~studies.mask[:, subset_mask([modality])].squeeze(1).numpy()] = np.nan
    return blocks


def _answers_of(
    studies: Studies, blocks: Blocks, answers: list[Answer], test: Index
) -> pd.DataFrame:
    modalities = studies.task.modalities
    requested = {subset_name(s): s for s in subsets(modalities)}
    tables: list[pd.DataFrame] = []
    for name, subset in {**requested, AVAILABLE: modalities}.items():
        rows = test if name == AVAILABLE else studies.having(test, subset_mask(subset))
        rows = rows[studies.mask[rows].any(1).numpy()]
        shown = {m: v if m in subset else np.full_like(v, np.nan) for m, v in blocks.items()}
        table = studies.ids.iloc[rows].reset_index(drop=True).assign(subset=name)
        for f, finding in enumerate(studies.task.finding_names):
            table[f"label.{finding}"] = studies.labels[rows, f].numpy()
            table[f"probability.{finding}"] = answers[f](_rows(shown, rows))
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def _rows(blocks: Blocks, rows: Index) -> Blocks:
    return {m: values[rows] for m, values in blocks.items()}


def zero_filling(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:
    """Logistic regression; an absent modality is a vector of zeros, in training and after."""
    return _regression(SimpleImputer(strategy="constant", fill_value=0.0), blocks, labels, groups)


def mean_imputation(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:
    """Logistic regression; an absent modality is the mean of the training studies."""
    return _regression(SimpleImputer(strategy="mean"), blocks, labels, groups)


def _regression(
    imputer: SimpleImputer, blocks: Blocks, labels: Floats, groups: NDArray[np.object_]
) -> Answer:
    """Standard scores side by side, each modality at unit length so that none drowns another."""
    shares = np.concatenate([np.full(v.shape[1], v.shape[1] ** -0.5) for v in blocks.values()])
    folds = StratifiedGroupKFold(INNER_FOLDS, shuffle=True, random_state=0)
    search = GridSearchCV(
        LogisticRegression(max_iter=500),
        {"C": PENALTIES},
        scoring="neg_log_loss",
        cv=list(folds.split(labels, labels, groups)),
    )
    # A ridge penalty sees the span of the training studies alone: no component of it is lost.
    scores = make_pipeline(imputer, StandardScaler(), FunctionTransformer(shares.__mul__), PCA())
    search.fit(scores.fit_transform(_joined(blocks)), labels)
    return lambda features: np.asarray(
        search.predict_proba(scores.transform(_joined(features)))[:, 1]
    )


def _joined(blocks: Blocks) -> Floats:
    return np.concatenate(list(blocks.values()), axis=1)


def gradient_boosting(blocks: Blocks, labels: Floats, groups: NDArray[np.object_]) -> Answer:  # noqa: ARG001
    """Gradient-boosted trees, which take a missing value as it is (Ke et al. 2017, LightGBM)."""
    parts = {m: _components(v) for m, v in blocks.items() if v.shape[1] > REDUCED}

    def joined(features: Blocks) -> Floats:
        return _joined({m: parts[m](v) if m in parts else v for m, v in features.items()})

    trees = HistGradientBoostingClassifier(
        learning_rate=0.05, max_iter=150, max_leaf_nodes=8, l2_regularization=1.0, random_state=0
    )
    trees.fit(joined(blocks), labels)
    return lambda features: np.asarray(trees.predict_proba(joined(features))[:, 1])


def _components(values: Floats) -> Callable[[Floats], Floats]:
    """Principal components of the rows that are there; NaN where a row is not."""
    present = ~np.isnan(values).any(axis=1)
    analysis = PCA(min(REDUCED, int(present.sum()) - 1), random_state=0).fit(values[present])

    def reduced(rows: Floats) -> Floats:
        result = np.full((len(rows), analysis.n_components_), np.nan)
        present = ~np.isnan(rows).any(axis=1)
        if present.any():
            result[present] = analysis.transform(rows[present])
        return result

    return reduced


LEARN: dict[str, Learn] = {
    "zero filling": zero_filling,
    "mean imputation": mean_imputation,
    "gradient boosting": gradient_boosting,
}
