"""External validation: evaluate a bundle on the studies of another site, and recalibrate it.

metrics.json has the figures of the stage `evaluate`, a transportability summary before them and a
recalibration report after them. A recalibrated bundle is written as a new one.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm import __version__
from cxr_mm.core.config import EvaluateParams
from cxr_mm.core.errors import InputError, ManifestError
from cxr_mm.core.files import (
    atomic_directory,
    check_writable,
    write_json,
    write_parquet,
    write_text,
)
from cxr_mm.core.prediction import OperatingPoint
from cxr_mm.core.shards.store import Place, name_of
from cxr_mm.core.shards.work import Run, keeping_results, run_here
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, HeaderUse, plural
from cxr_mm.data.clinical import age_in_years, check_clinical
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.manifest import finding_column
from cxr_mm.data.profile import Profile, profile
from cxr_mm.data.sources.base import raw_studies
from cxr_mm.data.sources.manifest_csv import read_manifest_csv
from cxr_mm.data.sources.shard_tables import table_digest
from cxr_mm.evaluation.evaluate import described
from cxr_mm.evaluation.external.answers import answering, collect_answers, shards_to_answer
from cxr_mm.evaluation.external.overlap import Overlap, find_overlap
from cxr_mm.evaluation.external.recalibrate import (
    Recalibration,
    Targets,
    check_any_update,
    check_destination,
    check_enough,
    check_no_bundle,
    fit_recalibration,
    recalibration_report,
    save_recalibrated,
)
from cxr_mm.evaluation.report.figures import METRICS_FILE, PLOTS_FOLDER
from cxr_mm.evaluation.report.plots import write_plots
from cxr_mm.evaluation.report.text import LINES, external_summary
from cxr_mm.evaluation.resampling import Weights, multiplicities
from cxr_mm.evaluation.subsets import measure_table, subset_rows
from cxr_mm.evaluation.uncertainty import share
from cxr_mm.inference.predictor import Predictor
from cxr_mm.inference.table import PredictionTable
from cxr_mm.models.bundle import Bundle

TRAITS = ("age", "sex", "view")
"""Columns that are compared even where the task does not use them."""


def transportability(
    bundle: Bundle,
    table: pd.DataFrame,
    measured: dict[str, Any],
    manifest_csv: Place,
    params: EvaluateParams,
) -> dict[str, Any]:
    """Transportability summary: how the model does at this site, and how the studies differ.

    Args:
        bundle: the model.
        table: predictions on labelled studies; `modalities` names what each row used.
        measured: as `measure_table` has it.
        manifest_csv: where the studies are from.
        params: resamples and seed.

    Returns:
        `findings` (name → figures of LINES, `operating_points`), `studies` (`here`, `trained_on`),
        `caveats` of the model's task and `warnings`.
    """
    rows = subset_rows(table, AVAILABLE)
    weights = multiplicities(rows["group"], params.bootstrap, params.seed)
    figures = measured["subsets"][AVAILABLE]["findings"]
    findings = {
        finding.name: {
            "n": figures[finding.name]["n"],
            "positives": figures[finding.name]["positives"],
            **{metric: figures[finding.name][metric] for metric in LINES},
            "operating_points": operating_points(bundle, rows, finding.name, weights),
        }
        for finding in bundle.task.findings
    }
    titles = {finding.name: finding.title for finding in bundle.task.findings}
    warned = [_no_skill(titles[name], figures["auc"]) for name, figures in findings.items()]
    return {
        "findings": findings,
        "studies": {
            "here": _profile_here(bundle.task, rows, manifest_csv),
            "trained_on": dict(bundle.trained_on.get("profile", {})),
        },
        "caveats": list(bundle.task.caveats),
        "warnings": [text for text in warned if text],
    }


def operating_points(
    bundle: Bundle, rows: pd.DataFrame, finding: str, weights: Weights
) -> dict[str, Any]:
    """Sensitivity and specificity at each operating point, beside those it was chosen with."""
    points = [bundle.operating_points.get(name, {}).get(finding) for name in rows["modalities"]]
    chosen = [point for point in points if point is not None]
    if not chosen or len(chosen) < len(points):
        return {}
    return {
        reason: {
            "in_use": reason == bundle.decision,
            **_rates(rows, finding, [point[reason] for point in chosen], weights),
        }
        for reason in chosen[0]
    }


def _rates(
    rows: pd.DataFrame, finding: str, points: Sequence[OperatingPoint], weights: Weights
) -> dict[str, Any]:
    labels = rows[f"label.{finding}"].to_numpy(np.float64)
    chances = rows[f"probability.{finding}"].to_numpy(np.float64)
    positives = chances >= np.array([point.threshold for point in points])
    groups = rows["group"].to_numpy(str)
    rates = {
        "sensitivity": (positives, labels == 1, [p.sensitivity for p in points]),
        "specificity": (~positives, labels == 0, [p.specificity for p in points]),
    }
    return {
        name: {
            **share(right, among, "no such study", weights, groups).to_json(),
            "chosen_with": round(float(np.mean(expected)), 4),
        }
        for name, (right, among, expected) in rates.items()
    }


def _no_skill(title: str, auc: dict[str, Any]) -> str:
    """Warning where the interval of the AUC does not exclude chance."""
    if not auc["ci95"] or auc["ci95"][0] > 0.5:
        return ""
    low, high = auc["ci95"]
    how = (
        "ranks studies the wrong way round" if high < 0.5 else "ranks studies no better than chance"
    )
    return (
        f"{title}: the model {how} here (AUC {auc['value']:.3f}, {low:.3f} to {high:.3f}); "
        "recalibration cannot fix that, it can only return probabilities to the prevalence"
    )


def _profile_here(task: Task, rows: pd.DataFrame, manifest_csv: Place) -> Profile:
    mask = np.array([[m in name.split("+") for m in MODALITIES] for name in rows["modalities"]])
    labels = rows[[f"label.{name}" for name in task.finding_names]]
    labels.columns = pd.Index(task.finding_names)
    traits = read_traits(task, manifest_csv, rows["study_id"].tolist())
    return profile(task, mask, traits, labels, int(rows["patient_id"].nunique()))


def read_traits(task: Task, manifest_csv: Place, studies: Sequence[str]) -> pd.DataFrame:
    """Clinical features of a manifest CSV, and age, sex and view where it has them besides.

    Returns:
        A row for each study in their order: numbers as float, all else as text.
    """
    frame = read_manifest_csv(manifest_csv, task, "predict").set_index("study_id")
    frame = frame.loc[list(studies)]
    names = list(task.clinical_names)
    columns = {feature.name: feature.column_in(frame.columns) for feature in task.clinical}
    records = ({name: row[columns[name]] for name in names} for _, row in frame.iterrows())
    checked = [check_clinical(task.clinical, record) for record in records]
    traits = pd.DataFrame(checked, index=frame.index, columns=names)
    for feature in task.clinical:
        if feature.type == "number":
            traits[feature.name] = traits[feature.name].astype(np.float64)
    for name in TRAITS:
        if name in traits or name not in frame:
            continue
        values = frame[name].map(age_in_years) if name == "age" else frame[name].str.upper()
        traits[name] = pd.to_numeric(values, errors="coerce") if name == "age" else values
    return traits


PREDICTIONS_FILE, BAD_ROWS_FILE = "predictions.parquet", "bad_rows.json"
SUMMARY_FILE = "summary.txt"
WRITTEN = {SUMMARY_FILE, METRICS_FILE, PLOTS_FOLDER, PREDICTIONS_FILE, BAD_ROWS_FILE}
Row = dict[str, Any]


def evaluate_on(
    predictor: Predictor,
    manifest_csv: Place,
    out: Path,
    params: EvaluateParams,
    new_bundle: Path | None = None,
    include_trained: bool = False,
    header: HeaderUse = "ignore",
    run: Run = run_here,
) -> Path:
    """Evaluate a bundle on every labelled study of a manifest CSV.

    Each study is predicted from all modalities it has (`available`), and from each subset of them.

    Args:
        predictor: the model.
        manifest_csv: studies with the task's finding columns (1, 0 or empty); a CSV or shards.
        out: folder for summary.txt, metrics.json, plots/, predictions.parquet and bad_rows.json.
        params: resamples, bins and seed.
        new_bundle: folder for the bundle recalibrated on these studies; it must not exist.
        include_trained: keep studies that the bundle was trained on, which are left out otherwise.
        header: as `iter_studies` has it.
        run: where studies are answered; the files are the same.

    Returns:
        `out`.

    Raises:
        ManifestError: the CSV is empty, lacks a column or has no label, no row can be used, all
            were trained on, or there are too few patients to recalibrate on.
        InputError: `out` contains other files than an earlier evaluation's, or the new bundle
            cannot be written to its folder.
    """
    _check_out(out)
    check_writable(out, [manifest_csv] if isinstance(manifest_csv, Path) else [])
    check_no_bundle(out)
    if new_bundle is not None:
        check_destination(new_bundle, out)
    task = predictor.bundle.task
    labels, bad = read_labels(task, manifest_csv)
    frame = read_manifest_csv(manifest_csv, task, "predict")
    overlap = find_overlap(
        predictor.bundle.fingerprints, frame[frame["study_id"].isin(labels.index)]
    )
    if not include_trained:
        labels = _without(labels, overlap, manifest_csv)
    if new_bundle is not None:
        check_enough(task, labels, manifest_csv)
    studies = frame[frame["study_id"].isin(labels.index)].to_dict("records")
    load = answering(predictor, studies, header)
    identity = (table_digest(manifest_csv), include_trained, header, predictor.accept_any_image)
    parts = out.with_name(f".{out.name}-parts")
    with keeping_results(
        load, parts, len(studies), __version__, predictor.bundle.digest, *identity
    ) as kept:
        answers = collect_answers(
            predictor, len(studies), run(kept, shards_to_answer(len(studies)))
        )
    bad += [{"study_id": row.study_id, "reason": row.reason} for row in answers.bad]
    if not answers.rows:
        raise ManifestError(
            f"no row can be used ({len(bad)} bad, the first: {bad[0]['reason']})",
            field=str(manifest_csv),
            remedy="Fix the rows, or look at them with cxr-mm score",
        )
    table = PredictionTable(task.finding_names).frame(answers.rows).join(labels, on="study_id")
    found = fit_recalibration(task, table, Targets.of(predictor.bundle))
    if new_bundle is not None:
        check_any_update(found, manifest_csv)
    metrics = _metrics(predictor.bundle, table, found, manifest_csv, params, len(bad))
    metrics |= {
        "trained_studies": overlap.to_json(include_trained),
        "tally": answers.report.lines(),
    }
    plotted_task = task.model_copy(update={"title": f"{task.title}, on {name_of(manifest_csv)}"})
    with atomic_directory(out) as aside:
        write_plots(plotted_task, table, metrics, aside / PLOTS_FOLDER)
        write_parquet(aside / PREDICTIONS_FILE, table)
        write_json(aside / BAD_ROWS_FILE, bad)
        if new_bundle is not None:
            digest = save_recalibrated(
                predictor.bundle, table, found, metrics, manifest_csv, new_bundle
            )
            metrics["recalibration"] |= {"bundle": str(new_bundle), "digest": digest}
        write_text(aside / SUMMARY_FILE, external_summary(metrics) + "\n")
        write_json(aside / METRICS_FILE, metrics)
    return out


def _without(labels: pd.DataFrame, overlap: Overlap, manifest_csv: Place) -> pd.DataFrame:
    """Leave out the studies that were trained on."""
    unseen = labels[~labels.index.isin(overlap.studies)]
    if unseen.empty and len(labels):
        raise ManifestError(
            f"trained on all of {plural(len(labels), 'study')}, by their ids, patients or images",
            field=str(manifest_csv),
            remedy="Give other studies; or --include-trained, where ids alone happen to be equal",
        )
    return unseen


def _metrics(
    bundle: Bundle,
    table: pd.DataFrame,
    found: Recalibration,
    manifest_csv: Place,
    params: EvaluateParams,
    bad: int,
) -> dict[str, Any]:
    measured = measure_table(bundle.task, table, params)
    return {
        "transportability": transportability(bundle, table, measured, manifest_csv, params),
        **described(bundle.task, table),
        "protocol": "external",
        "manifest": name_of(manifest_csv),
        "model": bundle.name,
        "digest": bundle.digest,
        "bad_rows": bad,
        **measured,
        "recalibration": recalibration_report(bundle, table, found, params),
    }


def read_labels(task: Task, manifest_csv: Place) -> tuple[pd.DataFrame, list[Row]]:
    """Labels of a manifest CSV by study, and the rows that cannot be evaluated.

    Returns:
        A table by `study_id` with `patient_id` (the study's own where not given), `group` and
        `label.NAME`; and `study_id` and `reason` of each row left out.

    Raises:
        ManifestError: as `read_manifest_csv`; or no row has a label.
    """
    frame = read_manifest_csv(manifest_csv, task, "evaluate")
    columns = {c for f in task.findings for c in (f.raw_column, f.name)} & set(frame.columns)
    if frame[sorted(columns)].isna().all(axis=None):
        raise ManifestError(
            "no row has a label",
            field=f"{manifest_csv}: {', '.join(sorted(columns))}",
            remedy="Give labels as 1, 0 or nothing; cxr-mm score needs none",
        )
    frame["patient_id"] = frame["patient_id"].where(frame["patient_id"].notna(), frame["study_id"])
    # The table of an external site need not know filters or the group key of the training source.
    plain = task.unfiltered().model_copy(update={"views": (), "group_key": "patient_id"})
    labelled = to_manifest(plain, raw_studies(frame, []))
    bad: list[Row] = [{"study_id": d.study_id, "reason": d.reason} for d in labelled.dropped]
    usable = labelled.manifest.frame.set_index("study_id")
    other = usable["view"].notna() & ~usable["view"].isin(task.views) if task.views else None
    if other is not None:
        views = usable.loc[other, "view"]
        bad += [{"study_id": s, "reason": f"view {v}"} for s, v in views.items()]
        usable = usable[~other]
    names = {finding_column(name): f"label.{name}" for name in task.finding_names}
    return usable[["patient_id", "group", *names]].rename(columns=names), bad


def _check_out(out: Path) -> None:
    """Check that the folder, which is replaced as a whole, contains no other files."""
    present = {path.name for path in out.iterdir()} if out.is_dir() else set()
    if out.is_file() or present - WRITTEN:
        raise InputError(
            "exists and is no earlier evaluation", field=str(out), remedy="Choose another folder"
        )
