"""Judging: predictions of champion and challenger on studies that neither was trained on."""

from collections import Counter
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.contracts.manifest import Manifest, finding_column
from cxr_mm.contracts.modality import MODALITIES, subset_name
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.additions import read_addition
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE
from cxr_mm.errors import InputError, StageError
from cxr_mm.evaluation.subsets import AVAILABLE, subset_rows
from cxr_mm.evaluation.traits import read_traits
from cxr_mm.inference import Predictor
from cxr_mm.params import EvaluateParams
from cxr_mm.paths import TaskPaths
from cxr_mm.scoring import BATCH, BadRow, iter_studies
from monitoring.retraining.comparison import Sample
from monitoring.retraining.gate import FROZEN, NEWEST

INPUTS = "inputs"
"""The trait by which studies are told apart that have other modalities."""


@dataclass(frozen=True)
class Newest:
    """The newest studies, judged by both.

    Args:
        sample: their predictions.
        left_out: reason → studies that are not among them.
    """

    sample: Sample
    left_out: dict[str, int]


def frozen_sample(champion: Path, paths: TaskPaths, task: Task, params: EvaluateParams) -> Sample:
    """Held-out predictions of both; of those, only studies that both held out count.

    Args:
        champion: heldout.parquet of the champion.
        paths: of the experiment.

    Raises:
        StageError: one of them is missing.
    """
    tables = []
    for path in (champion, paths.heldout):
        if not path.is_file():
            raise StageError("no such file", field=str(path), remedy="Run the stage fuse first")
        tables.append(subset_rows(pd.read_parquet(path), AVAILABLE))
    shared = sorted(set(tables[0]["study_id"]) & set(tables[1]["study_id"]))
    manifest = load_manifest(paths, task)
    names = [
        subset_name(m for m, has in zip(MODALITIES, row, strict=True) if has)
        for row in manifest.mask()
    ]
    inputs = pd.Series(names, index=manifest.frame["study_id"])
    traits = _traits(manifest, params, shared, inputs)
    return Sample(FROZEN, tables[0], tables[1], traits)


def newest_sample(
    champion: Predictor,
    challenger: Predictor,
    folder: Path,
    paths: TaskPaths,
    params: EvaluateParams,
) -> Newest:
    """Predictions of both on the studies that were kept back.

    Left out are patients that either was trained on, and studies that either cannot answer.

    Args:
        folder: what `write_studies` wrote.
        paths: of the experiment.

    Raises:
        ManifestError: no study is left.
        StageError: the experiment has not run.
    """
    kept = kept_back(challenger.bundle.task, folder, paths)
    tables = _answered((champion, challenger), folder, kept.manifest, kept.left_out)
    inputs = tables[1].set_index("study_id")[INPUTS]
    traits = _traits(kept.manifest, params, inputs.index.tolist(), inputs)
    return Newest(Sample(NEWEST, *tables, traits), dict(+kept.left_out))


@dataclass(frozen=True)
class KeptBack:
    """Studies that were kept back, of patients that nothing was trained on.

    Args:
        manifest: theirs.
        left_out: reason → studies that are not among them.
    """

    manifest: Manifest
    left_out: Counter[str]


def kept_back(task: Task, folder: Path, paths: TaskPaths) -> KeptBack:
    """Read what `write_studies` wrote, less the patients of the experiment's training data."""
    read = read_addition(task, folder)
    manifest, known = read.manifest, set(load_manifest(paths, task).frame["patient_id"])
    seen = manifest.frame["patient_id"].isin(known)
    left_out = Counter(dropped.reason for dropped in read.dropped)
    left_out["the patient is in the training data"] = int(seen.sum())
    return KeptBack(Manifest(task, manifest.frame[~seen].reset_index(drop=True)), left_out)


def _answered(
    predictors: tuple[Predictor, Predictor],
    folder: Path,
    manifest: Manifest,
    left_out: Counter[str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """What each predictor answers to the studies of a manifest that both can answer."""
    task, frame = manifest.task, manifest.frame.set_index("study_id")
    rows: tuple[list[dict[str, Any]], list[dict[str, Any]]] = ([], [])
    studies = (s for s in iter_studies(task, folder / DEFAULT_FILE) if s.study_id in frame.index)
    while batch := list(islice(studies, BATCH)):
        good = [study for study in batch if not isinstance(study, BadRow)]
        left_out["it cannot be read"] += len(batch) - len(good)
        answers = [predictor.attempt(good) for predictor in predictors]
        for study, *both in zip(good, *answers, strict=True):
            if any(isinstance(answer, InputError) for answer in both):
                left_out["its film was refused"] += 1
                continue
            for table, answer in zip(rows, both, strict=True):
                table.append(_row(study, frame.loc[study.study_id], answer))
    first, second = (pd.DataFrame(table, columns=_columns(task)) for table in rows)
    return first, second


def _columns(task: Task) -> list[str]:
    parts = ("label", "probability", "positive")
    return ["study_id", "group", INPUTS, *(f"{p}.{f}" for f in task.finding_names for p in parts)]


def _row(study: Study, known: "pd.Series[Any]", answer: Any) -> dict[str, Any]:
    said = answer.prediction
    row: dict[str, Any] = {
        "study_id": study.study_id,
        "group": known["group"],
        INPUTS: subset_name(said.modalities),
    }
    for found in said.findings:
        row[f"label.{found.finding}"] = known[finding_column(found.finding)]
        row[f"probability.{found.finding}"] = found.probability
        row[f"positive.{found.finding}"] = found.positive
    return row


def _traits(
    manifest: Manifest, params: EvaluateParams, among: list[str], inputs: "pd.Series[str]"
) -> pd.DataFrame:
    """Characteristics of these studies, and which inputs each has."""
    frame = read_traits(manifest, params, among).frame.astype(object)
    return frame.assign(**{INPUTS: inputs.reindex(frame.index)})
