"""Stage evaluate: predictions on held-out studies → metrics, subgroups, shortcuts, model card."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.config import EvaluateParams, Params
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import read_json, sha256_file, write_json, write_text
from cxr_mm.core.paths import TaskPaths, bundle_digest
from cxr_mm.core.progress import DIGEST_TAG, UNTRACKED, Tracking
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.data.clinical import ClinicalTransform
from cxr_mm.data.embeddings import EMBEDDINGS_FILE, load_embeddings
from cxr_mm.data.ingest import REPORT
from cxr_mm.data.manifest import TEXT, Manifest, load_manifest, load_quality
from cxr_mm.data.split import AUDIT, load_split
from cxr_mm.evaluation.compare import compare_subsets
from cxr_mm.evaluation.flags import EvaluationResults, find_flags
from cxr_mm.evaluation.mitigation import measure_mitigation
from cxr_mm.evaluation.populations import measure_populations
from cxr_mm.evaluation.report.figures import (
    CARD_FILE,
    METRICS_FILE,
    PAGE_FILE,
    PLOTS_FOLDER,
    headline_figures,
)
from cxr_mm.evaluation.report.model_card import model_card
from cxr_mm.evaluation.report.page import report_page
from cxr_mm.evaluation.report.plots import (
    curve_tables,
    draw_plots,
    draw_subgroups,
    save_plots,
)
from cxr_mm.evaluation.shortcuts import Audited, audit_shortcuts
from cxr_mm.evaluation.subgroups import measure_subgroups
from cxr_mm.evaluation.subsets import measure_divisions, measure_table
from cxr_mm.evaluation.traits import read_traits
from cxr_mm.imaging.quality import QUALITY_NAMES
from cxr_mm.models.input_gate import read_gate_spec
from cxr_mm.models.registry import read_index

HEADLINE_FILE = "headline.json"
DECIDING = ("ingest", "split", "train_image", "embed", "fuse", "evaluate")
"""Sections of the parameters that a figure depends on."""
SUBGROUPS_FILE, SHORTCUTS_FILE = "subgroups.json", "shortcuts.json"
COMPARISONS_FILE, FLAGS_FILE = "comparisons.json", "flags.json"
COLUMNS = ("study_id", "patient_id", "group", "fold", "subset")


def evaluate(task: Task, params: Params, paths: TaskPaths, tracking: Tracking = UNTRACKED) -> None:
    """Write metrics, headline, plots, subgroups, shortcuts, comparisons, flags, card and report.

    All are computed before the first is written, below `reports/TASK`. `tracking` is told the
    parameters of all stages, the headline, the digest of the bundle, and the card.

    Raises:
        StageError: an earlier stage has not run, or its held-out predictions lack something.
        BundleError: the bundle is damaged.
    """
    table = read_heldout(task, paths)
    results = compute_metrics(task, table, params.evaluate, paths)
    flags = find_flags(results)
    files = {
        METRICS_FILE: results.metrics,
        SUBGROUPS_FILE: results.subgroups,
        SHORTCUTS_FILE: results.shortcuts,
        COMPARISONS_FILE: results.comparisons,
        FLAGS_FILE: [flag.to_json() for flag in flags],
        HEADLINE_FILE: headline_figures(results.metrics),
    }
    tables = curve_tables(task, table)
    drawings = draw_plots(task, results.metrics, tables)
    drawings["subgroups"] = draw_subgroups(task, results.subgroups)
    card, folder = model_card(results, flags), paths.reports
    page = report_page(results, card, drawings)
    save_plots(tables, drawings, folder / PLOTS_FOLDER)
    for name, content in files.items():
        write_json(folder / name, content)
    write_text(folder / CARD_FILE, card)
    write_text(folder / PAGE_FILE, page)
    tracking.parameters(_parameters(params))
    tracking.figures(headline_figures(results.metrics))
    tracking.tag(DIGEST_TAG, bundle_digest(paths.bundle))
    tracking.file(folder / CARD_FILE)


def _parameters(params: Params) -> dict[str, Any]:
    """Parameters as SECTION.PARAMETER."""
    return {
        f"{section}.{name}": value
        for section in DECIDING
        for name, value in getattr(params, section).model_dump().items()
    }


def compute_metrics(
    task: Task, table: pd.DataFrame, params: EvaluateParams, paths: TaskPaths
) -> EvaluationResults:
    """Compute all evaluation results.

    Raises:
        StageError: an earlier stage has not run.
        BundleError: the bundle is damaged.
    """
    index = read_index(paths.bundle)
    manifest = load_manifest(paths, task)
    traits = read_traits(manifest, params, sorted(set(table["study_id"])))
    return EvaluationResults(
        task=task,
        index=index,
        metrics={
            **described(task, table),
            "digest": index.digest,
            **_measured(manifest, table, params, paths),
        },
        subgroups={
            **measure_subgroups(task, table, traits, params),
            "mitigation": measure_mitigation(task, table, traits, params),
        },
        shortcuts=audit_shortcuts(task, table, _audited(manifest, params, paths), params),
        comparisons=compare_subsets(task, table, params),
        ingest=read_json(paths.ingest / REPORT),
        audit=read_json(paths.split / AUDIT),
        params=params,
        digests=_digests(task, paths),
        faithfulness=_of_bundle(paths.faithfulness, index.digest),
        uninformative=ClinicalTransform.fit(task.clinical, manifest.clinical()).uninformative(),
        gate=read_gate_spec(paths.bundle),
        gate_elsewhere=_of_bundle(paths.input_gate, index.digest),
    )


def _measured(
    manifest: Manifest, table: pd.DataFrame, params: EvaluateParams, paths: TaskPaths
) -> dict[str, Any]:
    """Figures of all held-out studies, and of the task's populations."""

    def measure(first: pd.DataFrame, others: pd.DataFrame) -> dict[str, Any]:
        divided = measure_divisions(manifest.task, first, others, params)
        figures = measure_table(manifest.task, first, params)
        return {**figures, "divisions": divided} if divided else figures

    further = pd.read_parquet(paths.divisions)
    populations = measure_populations(manifest, table, further, measure)
    figures = measure(table, further)
    return {**figures, "populations": populations} if populations else figures


def _audited(manifest: Manifest, params: EvaluateParams, paths: TaskPaths) -> Audited:
    with_image = manifest.task.has_image
    measured = load_quality(paths) if with_image else None
    return Audited(
        manifest=manifest,
        groups=load_split(paths)["group"].to_numpy(object),
        embedding=load_embeddings(paths)["image"] if with_image else None,
        quality=None if measured is None else measured[list(QUALITY_NAMES)].to_numpy(np.float64),
        text=None if measured is None else measured[TEXT].to_numpy(np.bool_),
        traits=read_traits(manifest, params, manifest.frame["study_id"]),
    )


def _of_bundle(report: Path, digest: str) -> dict[str, Any]:
    """What was measured on this bundle after it was fitted; empty for any other."""
    if not report.is_file():
        return {}
    found: dict[str, Any] = read_json(report)
    return found if found["digest"] == digest else {}


def _digests(task: Task, paths: TaskPaths) -> dict[str, str]:
    files = {paths.heldout.name: paths.heldout}
    if task.has_image or task.note:
        files[EMBEDDINGS_FILE] = paths.embeddings / EMBEDDINGS_FILE
    return {name: sha256_file(file) for name, file in files.items()}


def read_heldout(task: Task, paths: TaskPaths) -> pd.DataFrame:
    """Read and validate held-out predictions.

    Raises:
        StageError: the file is missing or has no row of `available`, a column is missing, or a
            probability is not in [0, 1].
    """
    field, remedy = str(paths.heldout), f"Run dvc repro fuse@{task.name}"
    if not paths.heldout.is_file():
        raise StageError("no such file", field=field, remedy=remedy)
    table = pd.read_parquet(paths.heldout)
    needed = [*COLUMNS]
    for name in task.finding_names:
        needed += [f"{part}.{name}" for part in ("label", "probability", "positive")]
    if missing := [c for c in needed if c not in table.columns]:
        raise StageError(f"no column {', '.join(missing)}", field=field, remedy=remedy)
    if not (table["subset"] == AVAILABLE).any():
        raise StageError("no held-out study", field=field, remedy=remedy)
    chances = table[[f"probability.{name}" for name in task.finding_names]].to_numpy(np.float64)
    if not np.all((chances >= 0) & (chances <= 1)):
        raise StageError("a probability is not in [0, 1]", field=field, remedy=remedy)
    return table


def described(task: Task, table: pd.DataFrame) -> dict[str, Any]:
    """Task, protocol and folds that the figures belong to."""
    return {
        "task": task.name,
        "title": task.title,
        "problem": task.problem,
        "synthetic": task.synthetic,
        "protocol": task.split.protocol,
        "folds": int(table["fold"].nunique()),
    }
