"""Stage `explain`: a gallery of right and wrong held-out predictions, what moves the model over
many studies, and how faithful each method is."""

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.config import ExplainParams, Params
from cxr_mm.core.errors import InputError, StageError
from cxr_mm.core.files import atomic_directory, to_json, write_json
from cxr_mm.core.paths import TaskPaths, data_root
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE
from cxr_mm.data.manifest import load_manifest
from cxr_mm.data.sources import source_folder
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.budget import TimeBudget
from cxr_mm.explain.cases import Studies, choose
from cxr_mm.explain.faithfulness.localisation import (
    Boxes,
    localisation_figures,
    lung_figures,
    read_boxes,
)
from cxr_mm.explain.faithfulness.measure import measure
from cxr_mm.explain.faithfulness.metrics import mean_with_interval
from cxr_mm.explain.methods import METHODS, Ask, Method, methods_of
from cxr_mm.explain.pages import draw_cases, gallery_page
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.models.bundle import Bundle, load_bundle

_log = logging.getLogger(__name__)


def importance(bundle: Bundle, studies: Iterable[Study], seed: int) -> dict[str, Any]:
    """Mean absolute share of each modality, and SHAP value of each feature, in logits.

    Args:
        bundle: the model.
        studies: of one split; those without any input of the task are left out.
        seed: of SHAP's permutations.

    Returns:
        Finding → `modalities` and `clinical`, each name → n, mean, and its interval over patients.
    """
    rows: list[dict[str, Any]] = []
    for study in studies:
        try:
            subject = Subject(bundle, study)
        except InputError:
            continue
        rows += _of(subject, seed)
    table = pd.DataFrame(rows, columns=["finding", "kind", "name", "value", "patient_id"])
    return {
        finding: {
            kind: {
                str(name): {"n": len(own), **_mean(own)}
                for name, own in chosen.groupby("name", sort=False)
            }
            for kind, chosen in table[table["finding"] == finding].groupby("kind", sort=False)
        }
        for finding in bundle.task.finding_names
    }


def _of(subject: Subject, seed: int) -> list[dict[str, Any]]:
    rows = []
    for finding, result in modality_shares(subject).items():
        about = {"finding": finding, "patient_id": subject.study.patient_id}
        rows += [
            {**about, "kind": "modalities", "name": m, "value": abs(share)}
            for m, share in result.shares.items()
        ]
        if "tabular" in subject.present:
            values = METHODS["shap_tabular"].explain(subject, Target(finding), Ask(seed))
            rows += [
                {**about, "kind": "clinical", "name": name, "value": abs(float(value))}
                for name, value in zip(values.names, values.values, strict=True)
            ]
    return rows


def _mean(rows: pd.DataFrame) -> dict[str, float | None]:
    values = rows["value"].to_numpy(np.float64)
    return mean_with_interval(values.tolist(), rows["patient_id"].astype(str).tolist())


MEASURING = 0.75
"""Share of the time for faithfulness; the rest is for the importance of inputs and the gallery."""
Measured = dict[str, Any]


def explain(task: Task, params: Params, paths: TaskPaths) -> None:
    """Write the gallery's folder and faithfulness.json, within `explain.time_limit`.

    Raises:
        StageError: there are no held-out predictions of `fuse`.
        BundleError: the bundle cannot be read.
    """
    chosen = params.explain
    budget = TimeBudget(chosen.time_limit)
    figures = measured_on(task, chosen, paths, budget.part(MEASURING))
    bundle, heldout, studies = open_outputs(task, paths)
    about = {name: figures[name] for name in ("task", "digest", "synthetic", "notice")}
    some = _shuffled(heldout, chosen.seed)[: chosen.importance]
    in_time = budget.part(0.5).each("importance of inputs", some)
    mean_shares = importance(bundle, map(studies.study, in_time), chosen.seed)
    cases = choose(task, heldout, chosen.gallery, chosen.seed)
    with atomic_directory(paths.explanations) as folder:
        entries, cards = draw_cases(bundle, studies, budget.each("gallery", cases), folder)
        gallery = {**about, "importance": mean_shares, "cases": entries}
        (folder / "gallery.json").write_text(to_json(gallery), encoding="utf-8")
        text = gallery_page(task, bundle.digest, cards, figures, mean_shares)
        (folder / "index.html").write_text(text, encoding="utf-8")
    write_json(paths.faithfulness, figures)
    limit = chosen.time_limit or 0.0  # without one nothing is cut short
    for part, reached in budget.unmeasured.items():
        _log.warning("%s: cut short by explain.time_limit = %g s, %s", part, limit, reached)


def measured_on(
    task: Task, params: ExplainParams, paths: TaskPaths, budget: TimeBudget
) -> Measured:
    """Content of faithfulness.json: which bundle, `methods`, `localisation`, `lungs`, and
    `unmeasured`: parts that the time did not suffice for.

    Raises:
        StageError, BundleError: as of `explain`.
    """
    bundle, heldout, studies = open_outputs(task, paths)
    shuffled = _shuffled(heldout, params.seed)
    lungs = _on_lungs(bundle, studies, shuffled, params, budget.part(0.25))  # masks may be missing
    quick = _measured(bundle, studies, shuffled, params, budget.part(0.6), slow=False)
    localised = _localised(bundle, studies, heldout, params, budget.part(0.5))
    slow = _measured(bundle, studies, shuffled, params, budget, slow=True)
    methods = _with_areas(quick | slow, localised or {})
    return {
        "task": task.name,
        "digest": bundle.digest,
        "synthetic": task.synthetic,
        "notice": NOTICE,
        "methods": {name: methods[name] for name in METHODS if name in methods},
        "localisation": localised,
        "lungs": lungs,
        "unmeasured": budget.unmeasured,
    }


def _with_areas(methods: dict[str, Any], localised: dict[str, Any]) -> dict[str, Any]:
    """Each method's figures with its own against the true areas, finding → figures, in `areas`."""
    return {
        name: own | {"areas": {f: found[name] for f, found in localised.items() if name in found}}
        for name, own in methods.items()
    }


def open_outputs(task: Task, paths: TaskPaths) -> tuple[Bundle, pd.DataFrame, Studies]:
    """Read a task's bundle, its held-out rows (one a study), and where the studies are.

    Raises:
        StageError, BundleError: as of `explain`.
    """
    bundle, heldout = load_bundle(paths.bundle), _heldout(paths)
    pixels = paths.pixels if task.has_image else None
    return bundle, heldout, Studies(load_manifest(paths, task), pixels)


def _shuffled(heldout: pd.DataFrame, seed: int) -> list[str]:
    return [str(s) for s in heldout.sample(frac=1, random_state=seed)["study_id"]]


def _heldout(paths: TaskPaths) -> pd.DataFrame:
    if not paths.heldout.is_file():
        raise StageError("no such file", field=str(paths.heldout), remedy="Run the stage fuse")
    heldout = pd.read_parquet(paths.heldout)
    return (
        heldout[heldout["subset"] == AVAILABLE].drop_duplicates("study_id").reset_index(drop=True)
    )


def _measured(
    bundle: Bundle,
    studies: Studies,
    shuffled: list[str],
    params: ExplainParams,
    budget: TimeBudget,
    *,
    slow: bool,
) -> dict[str, Any]:
    """Quick or slow methods of the task, findings in turn."""
    task, findings = bundle.task, bundle.task.finding_names
    images = [s for s in shuffled if studies.has_image(s) or not task.has_image]
    methods = [m for m in METHODS.values() if m.modality in task.modalities and m.slow == slow]
    chosen = images[: params.slow_studies if slow else params.studies]
    in_time = budget.each("slow methods" if slow else "quick methods", chosen)
    cases = (
        (studies.study(study_id, with_image=True), Target(findings[k % len(findings)]))
        for k, study_id in enumerate(in_time)
    )
    return measure(bundle, cases, methods, params.seed)


def _localised(
    bundle: Bundle,
    studies: Studies,
    heldout: pd.DataFrame,
    params: ExplainParams,
    budget: TimeBudget,
) -> dict[str, Any] | None:
    """None where there are neither boxes nor the synthetic source's masks to measure against."""
    task, boxes = bundle.task, given_boxes(bundle.task, params)
    if not task.has_image or not (task.synthetic or boxes):
        return None
    count, seed = params.localisation, params.seed
    methods = _quick_image_methods()
    return localisation_figures(bundle, studies, heldout, methods, boxes, count, seed, budget)


def given_boxes(task: Task, params: ExplainParams) -> Boxes:
    """Boxes of `explain.boxes`; empty where the task names none.

    Raises:
        ManifestError, StageError: as of `read_boxes`.
    """
    if params.boxes is None:
        return {}
    return read_boxes(source_folder(task, data_root()) / params.boxes, params.boxes_column)


def _on_lungs(
    bundle: Bundle,
    studies: Studies,
    shuffled: list[str],
    params: ExplainParams,
    budget: TimeBudget,
) -> dict[str, Any] | None:
    if params.lung_masks is None or not bundle.task.has_image:
        return None
    images = [s for s in shuffled if studies.has_image(s)]
    images, folder = images[: params.localisation], Path(params.lung_masks).expanduser()
    methods = _quick_image_methods()
    return lung_figures(bundle, studies, images, methods, folder, params.seed, budget)


def _quick_image_methods() -> list[Method]:
    return [method for method in methods_of("image") if not method.slow]
