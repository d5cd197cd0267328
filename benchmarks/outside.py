"""Part `outside`: the `pneumonia` bundle, trained on children, on the NIH films of adults.

The labels there were mined from reports by a program (Wang et al., CVPR 2017), and most films
without finding are AP, so figures are given by view too.
"""

import os
import tempfile
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pandas as pd

from benchmarks.figures import FUSED, RUNS_VARIABLE, Metrics, figure, shipped_metrics
from benchmarks.rows import Row
from cxr_mm.contracts.manifest import clinical_column, finding_column
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Finding, Task
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.sources.nih14 import read_nih14
from cxr_mm.data.tasks import load_task
from cxr_mm.errors import DataNotFoundError, InputError
from cxr_mm.evaluation.outside import evaluate_on
from cxr_mm.evaluation.recalibration import METRICS
from cxr_mm.evaluation.subsets import AVAILABLE, measure_subset, subset_rows
from cxr_mm.files import read_json
from cxr_mm.inference import Predictor
from cxr_mm.models.bundle import load_bundle
from cxr_mm.params import EvaluateParams
from cxr_mm.paths import TaskPaths, data_root
from cxr_mm.scoring import iter_studies

TASK, FINDING = "pneumonia", "pneumonia"
COMMAND = "make benchmark PART=outside"
ADULT = 18
PARAMS = EvaluateParams()
GROUP_METRICS = ("auc", "calibration_in_the_large", "sensitivity", "specificity")
BATCH = 32


def measure() -> list[Row]:
    """Rows of adults, before and after recalibration and by view, and of those under 18.

    Raises:
        BundleError: there is no `pneumonia` bundle below CXR_MM_RUNS.
        DataNotFoundError: the NIH films are not below the data root.
    """
    root = Path(os.environ.get(RUNS_VARIABLE) or ".")
    predictor = Predictor(load_bundle(TaskPaths(TASK, root).bundle), accept_any_film=True)
    films = nih_films(data_root())
    adult = films["age"] >= ADULT
    with tempfile.TemporaryDirectory() as folder:
        adults = _evaluated(predictor, films[adult], Path(folder, "adults"))
        minors = _evaluated(predictor, films[films["age"] < ADULT], Path(folder, "minors"))
    return [
        *_before_and_after(adults),
        *_groups(predictor.bundle.task, adults, films, "adults"),
        *_group(predictor.bundle.task, minors, minors.rows, "under 18"),
    ]


def nih_films(root: Path) -> pd.DataFrame:
    """A manifest of the NIH films with pneumonia (1) and without any finding (0).

    Returns:
        `study_id, patient_id, image_path, age, sex, view` and `pneumonia`; films with other
        findings alone are left out.
    """
    nih = load_task("effusion")  # for where the films are and how their ages and views are read
    finding = Finding(
        name=FINDING,
        title="Pneumonia",
        column="Finding Labels",
        positive=("Pneumonia",),
        negative=("No Finding",),
    )
    folder = root / nih.source.folder
    if not folder.is_dir():
        raise DataNotFoundError(
            "no such folder", field=str(folder), remedy="Run cxr-mm fetch effusion"
        )
    task = nih.model_copy(update={"findings": (finding,)})
    frame = to_manifest(task, read_nih14(task, folder, folder)).manifest.frame
    names = {clinical_column("age"): "age", clinical_column("sex"): "sex"}
    frame = frame.rename(columns={**names, finding_column(FINDING): FINDING})
    frame["image_path"] = [str((folder / path).resolve()) for path in frame["image_path"]]
    frame[FINDING] = frame[FINDING].astype(int)
    return frame[["study_id", "patient_id", "image_path", "age", "sex", "view", FINDING]]


@dataclass(frozen=True)
class Evaluated:
    """What `evaluate-on` left, and which films the gate would have refused."""

    metrics: Metrics
    rows: pd.DataFrame
    refused: set[str]
    seconds: float


def _evaluated(predictor: Predictor, films: pd.DataFrame, folder: Path) -> Evaluated:
    folder.mkdir()
    manifest = folder / "nih.csv"
    films.to_csv(manifest, index=False)
    started = time.perf_counter()
    out = evaluate_on(predictor, manifest, folder / "report", PARAMS)
    seconds = time.perf_counter() - started
    rows = subset_rows(pd.read_parquet(out / "predictions.parquet"), AVAILABLE)
    return Evaluated(read_json(out / "metrics.json"), rows, _refused(predictor, manifest), seconds)


def _refused(predictor: Predictor, manifest: Path) -> set[str]:
    """Studies whose film a predictor refuses that was not told to accept any."""
    if predictor.bundle.gate is None:
        return set()
    strict = Predictor(predictor.bundle)
    found: set[str] = set()
    every = iter_studies(predictor.bundle.task, manifest)
    studies = (study for study in every if isinstance(study, Study))
    while batch := list(islice(studies, BATCH)):
        answers = zip(batch, strict.attempt(batch), strict=True)
        found |= {study.study_id for study, answer in answers if isinstance(answer, InputError)}
    return found


def _before_and_after(adults: Evaluated) -> list[Row]:
    """Every figure as it is, recalibrated, and the change of those that are scores."""
    brings = adults.metrics["recalibration"]["brings"]
    own = shipped_metrics(TASK) or {"subsets": {}}
    rows = []
    for name, part in (("adults", "before"), ("adults, recalibrated in 5 folds", "after")):
        for metric in METRICS:
            same = figure(own, FUSED, metric)
            found = brings[AVAILABLE][FINDING][metric][part]
            reference = None if same is None else same.value
            rows += _row(adults, name, metric, found, len(adults.rows), reference)
    for metric in ("ece", "brier"):
        found = brings[AVAILABLE][FINDING][metric]["difference"]
        rows += _row(
            adults, "adults, recalibrated minus as it is", metric, found, len(adults.rows), 0
        )
    return rows


def _groups(task: Task, seen: Evaluated, films: pd.DataFrame, name: str) -> list[Row]:
    """By view, and of the films that the gate accepts, with their share."""
    views = seen.rows.merge(films[["study_id", "view"]], on="study_id")
    rows = []
    for view, part in views.groupby("view"):
        rows += _group(task, seen, part, f"{name}, {view}")
    refused = seen.rows["study_id"].isin(seen.refused)
    if seen.refused:
        share = {"value": float(refused.mean()), "ci95": None}
        rows += _row(seen, name, "share of films that the gate refuses", share, len(refused))
        rows += _group(task, seen, seen.rows[~refused], f"{name}, films that the gate accepts")
    return rows


def _group(task: Task, seen: Evaluated, part: pd.DataFrame, name: str) -> list[Row]:
    if part.empty:
        return []
    figures = measure_subset(task, part, PARAMS)["findings"][FINDING]
    return [
        row
        for metric in GROUP_METRICS
        for row in _row(seen, name, metric, figures[metric], len(part))
    ]


def _row(
    seen: Evaluated,
    name: str,
    metric: str,
    found: dict[str, Any],
    n: int,
    reference: float | None = None,
) -> list[Row]:
    if found["value"] is None:
        return []
    return [
        Row(
            table="outside",
            task=TASK,
            row=f"NIH, {name}",
            metric=metric,
            value=found["value"],
            ci95=found["ci95"],
            reference=reference,
            n=n,
            seed=PARAMS.seed,
            seconds=seen.seconds,
            command=COMMAND,
        )
    ]
