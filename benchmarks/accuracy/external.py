"""Part `external`: the `pneumonia` bundle, trained on children, on the NIH images of adults.

The labels there were mined from reports by a program (Wang et al., CVPR 2017), and most images
without finding are AP, so figures are given by view too.
"""

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from benchmarks.harness.outputs import FUSED, Metrics, after, figure, paths_of, shipped_metrics
from benchmarks.harness.parts import Row
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import DataNotFoundError
from cxr_mm.core.files import read_json
from cxr_mm.core.paths import data_root
from cxr_mm.core.study import Study
from cxr_mm.core.task import Finding, Task, load_task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.manifest import clinical_column, finding_column
from cxr_mm.data.sources.nih14 import read_nih14
from cxr_mm.data.studies import BadRow, iter_studies
from cxr_mm.data.synthetic.population import SynthesisSpec
from cxr_mm.data.synthetic.writer import synthesise
from cxr_mm.evaluation.external.recalibrate import METRICS
from cxr_mm.evaluation.external.validate import evaluate_on
from cxr_mm.evaluation.subsets import measure_subset, subset_rows
from cxr_mm.inference.predictor import Predictor
from cxr_mm.inference.table import answer_in_batches
from cxr_mm.models.bundle import load_bundle

TASK, FINDING, SYNTHETIC = "pneumonia", "pneumonia", "synthetic"
ADULT = 18
PARAMS = EvaluateParams()
GROUP_METRICS = ("auc", "calibration_in_the_large", "sensitivity", "specificity")
SYNTHETIC_METRICS = ("calibration_in_the_large", "calibration_slope", "ece", "brier", "auc")
RARER = SynthesisSpec(studies=400, seed=11, prevalence_consolidation=0.15, prevalence_effusion=0.15)


def measure() -> list[Row]:
    """Rows of adults, before and after recalibration and by view, and of those under 18.

    Rows of synthetic studies with rarer findings than in training follow where the task `synthetic`
    has a bundle: there recalibration has something to fix.

    Raises:
        BundleError: there is no `pneumonia` bundle below CXR_MM_RUNS.
        DataNotFoundError: the NIH images are not below the data root.
    """
    predictor = Predictor(load_bundle(paths_of(TASK).bundle), accept_any_image=True)
    images = nih_images(data_root())
    adult = images["age"] >= ADULT
    with tempfile.TemporaryDirectory() as folder:
        adults = _on_images(predictor, images[adult], Path(folder, "adults"))
        refused = _refused(predictor, Path(folder, "adults", "nih.csv"))
        young = images[~adult & images["age"].notna()]
        minors = _on_images(predictor, young, Path(folder, "minors"))
    own = shipped_metrics(TASK) or {"subsets": {}}
    return [
        *_before_and_after(adults, FINDING, METRICS, own),
        *_groups(predictor.bundle.task, adults, images, refused),
        *_group(predictor.bundle.task, minors, minors.rows, "NIH, under 18"),
        *_synthetic(),
    ]


def _synthetic() -> list[Row]:
    """Synthetic studies whose findings are half as common as those trained on."""
    paths = next(after("fuse", "external", [SYNTHETIC]), None)
    if paths is None:
        return []
    predictor = Predictor(load_bundle(paths.bundle), accept_any_image=True)
    with tempfile.TemporaryDirectory() as folder:
        created = synthesise(Path(folder, "made"), RARER)
        seen = _evaluated(predictor, created / "manifest.csv", "findings half as common")
    return [
        row
        for finding in predictor.bundle.task.finding_names
        for row in _before_and_after(seen, finding, SYNTHETIC_METRICS, {"subsets": {}})
    ]


def nih_images(root: Path) -> pd.DataFrame:
    """A manifest of the NIH images with pneumonia (1) and without any finding (0).

    Returns:
        `study_id, patient_id, image_path, age, sex, view` and `pneumonia`; images with other
        findings alone are left out.
    """
    nih = load_task("effusion")  # for where the images are and how their ages and views are read
    labels = {"column": "Finding Labels", "positive": ("Pneumonia",), "negative": ("No Finding",)}
    finding = Finding(name=FINDING, title="Pneumonia", **labels)
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
    """What `evaluate-on` left."""

    name: str
    metrics: Metrics
    rows: pd.DataFrame
    seconds: float


def _on_images(predictor: Predictor, images: pd.DataFrame, folder: Path) -> Evaluated:
    folder.mkdir()
    images.to_csv(folder / "nih.csv", index=False)
    return _evaluated(predictor, folder / "nih.csv", f"NIH, {folder.name}")


def _evaluated(predictor: Predictor, manifest: Path, name: str) -> Evaluated:
    started = time.perf_counter()
    out = evaluate_on(predictor, manifest, manifest.with_name("report"), PARAMS)
    seconds = time.perf_counter() - started
    rows = subset_rows(pd.read_parquet(out / "predictions.parquet"), AVAILABLE)
    return Evaluated(name, read_json(out / "metrics.json"), rows, seconds)


def _refused(predictor: Predictor, manifest: Path) -> set[str]:
    """Studies whose image the input gate refuses."""
    if predictor.bundle.gate is None:
        return set()
    strict = Predictor(predictor.bundle)
    every = iter_studies(predictor.bundle.task, manifest)
    answers = answer_in_batches(strict, (study for study in every if isinstance(study, Study)))
    return {answer.study_id for answer in answers if isinstance(answer, BadRow)}


def _before_and_after(
    seen: Evaluated, finding: str, metrics: Sequence[str], own: Metrics
) -> list[Row]:
    """Figures as they are, recalibrated, and the change of those that are scores."""
    gains = seen.metrics["recalibration"]["gain"][AVAILABLE][finding]
    name = seen.name if finding == seen.metrics["task"] else f"{seen.name}: {finding}"
    rows = []
    for what, part in (("", "before"), (", recalibrated in 5 folds", "after")):
        for metric in metrics:
            same = figure(own, FUSED, metric)
            rows += _row(
                seen, f"{name}{what}", metric, gains[metric][part], same.value if same else None
            )
    for metric in ("ece", "brier"):
        change = gains[metric]["difference"]
        rows += _row(seen, f"{name}, recalibrated minus as it is", metric, change, 0.0)
    return rows


def _groups(task: Task, seen: Evaluated, images: pd.DataFrame, refused: set[str]) -> list[Row]:
    """By view, and of the images that the gate accepts, with the share of the others."""
    views = seen.rows.merge(images[["study_id", "view"]], on="study_id")
    rows = []
    for view, part in views.groupby("view"):
        rows += _group(task, seen, part, f"{seen.name}, {view}")
    if refused:
        out = seen.rows["study_id"].isin(refused)
        share = {"value": float(out.mean()), "ci95": None}
        rows += _row(seen, seen.name, "share of images the gate refuses", share)
        rows += _group(task, seen, seen.rows[~out], f"{seen.name}, images the gate accepts")
    return rows


def _group(task: Task, seen: Evaluated, part: pd.DataFrame, name: str) -> list[Row]:
    if part.empty:
        return []
    some = replace(seen, rows=part)
    figures = measure_subset(task, part, PARAMS)["findings"][FINDING]
    return [row for m in GROUP_METRICS for row in _row(some, name, m, figures[m])]


def _row(
    seen: Evaluated, name: str, metric: str, found: Metrics, reference: float | None = None
) -> list[Row]:
    """A row; none where the figure is not defined."""
    if found["value"] is None:
        return []
    return [
        Row(
            task=seen.metrics["task"],
            row=name,
            metric=metric,
            value=found["value"],
            ci95=found["ci95"],
            reference=reference,
            n=len(seen.rows),
            seed=PARAMS.seed,
            seconds=seen.seconds,
        )
    ]
