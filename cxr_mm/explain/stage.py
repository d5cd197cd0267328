"""Stage `explain`: a gallery of right and wrong held-out predictions, what moves the model over
many studies, and how faithful each method is."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxr_mm.core.config import ExplainParams, Params
from cxr_mm.core.errors import InputError, StageError
from cxr_mm.core.files import atomic_directory, to_json, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.prediction import NOTICE
from cxr_mm.core.study import Study
from cxr_mm.core.task import Task
from cxr_mm.data.manifest import load_manifest
from cxr_mm.explain.attribution import Target
from cxr_mm.explain.cases import Studies, choose
from cxr_mm.explain.faithfulness.measure import localisation_figures, lung_figures, measure
from cxr_mm.explain.faithfulness.metrics import mean_with_interval
from cxr_mm.explain.methods import METHODS, Ask, Method, methods_of
from cxr_mm.explain.pages import draw_cases, gallery_page
from cxr_mm.explain.subject import Subject, modality_shares
from cxr_mm.models.bundle import Bundle, load_bundle


def importance(bundle: Bundle, studies: Iterable[Study], seed: int) -> dict[str, Any]:
    """Mean absolute share of each modality, and SHAP value of each feature, in logits.

    Args:
        bundle: the model.
        studies: of one split; those without any input of the task are left out.
        seed: of SHAP's permutations and of the intervals.

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
                str(name): {"n": len(own), **_mean(own, seed)}
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


def _mean(rows: pd.DataFrame, seed: int) -> dict[str, float]:
    values = rows["value"].to_numpy(np.float64)
    return mean_with_interval(values.tolist(), rows["patient_id"].astype(str).tolist(), seed)


SUBSET = "available"
Measured = dict[str, Any]


def explain(task: Task, params: Params, paths: TaskPaths) -> None:
    """Write the gallery's folder and faithfulness.json.

    Raises:
        StageError: there are no held-out predictions of `fuse`.
        BundleError: the bundle cannot be read.
    """
    chosen = params.explain
    figures = measured_on(task, chosen, paths)
    bundle, heldout, studies = _opened(task, paths)
    about = {name: figures[name] for name in ("task", "digest", "synthetic", "notice")}
    some = _shuffled(heldout, chosen.seed)[: chosen.importance]
    mean_shares = importance(bundle, map(studies.study, some), chosen.seed)
    cases = choose(task, heldout, chosen.gallery, chosen.seed)
    with atomic_directory(paths.explanations) as folder:
        entries, cards = draw_cases(bundle, studies, cases, folder)
        gallery = {**about, "importance": mean_shares, "cases": entries}
        (folder / "gallery.json").write_text(to_json(gallery), encoding="utf-8")
        text = gallery_page(task, bundle.digest, cards, figures, mean_shares)
        (folder / "index.html").write_text(text, encoding="utf-8")
    write_json(paths.faithfulness, figures)


def measured_on(task: Task, params: ExplainParams, paths: TaskPaths) -> Measured:
    """Content of faithfulness.json: which bundle, `methods`, `localisation` and `lungs`.

    Raises:
        StageError, BundleError: as of `explain`.
    """
    bundle, heldout, studies = _opened(task, paths)
    shuffled = _shuffled(heldout, params.seed)
    lungs = _on_lungs(bundle, studies, shuffled, params)  # first: masks may be missing
    return {
        "task": task.name,
        "digest": bundle.digest,
        "synthetic": task.synthetic,
        "notice": NOTICE,
        "methods": _measured(bundle, studies, shuffled, params),
        "localisation": _localised(bundle, studies, heldout, params),
        "lungs": lungs,
    }


def _opened(task: Task, paths: TaskPaths) -> tuple[Bundle, pd.DataFrame, Studies]:
    bundle, heldout = load_bundle(paths.bundle), _heldout(paths)
    pixels = paths.pixels if task.has_image else None
    return bundle, heldout, Studies(load_manifest(paths, task), pixels)


def _shuffled(heldout: pd.DataFrame, seed: int) -> list[str]:
    return [str(s) for s in heldout.sample(frac=1, random_state=seed)["study_id"]]


def _heldout(paths: TaskPaths) -> pd.DataFrame:
    if not paths.heldout.is_file():
        raise StageError("no such file", field=str(paths.heldout), remedy="Run the stage fuse")
    heldout = pd.read_parquet(paths.heldout)
    return heldout[heldout["subset"] == SUBSET].drop_duplicates("study_id").reset_index(drop=True)


def _measured(
    bundle: Bundle, studies: Studies, shuffled: list[str], params: ExplainParams
) -> dict[str, Any]:
    """Every method of the task; slow ones on fewer studies."""
    task, findings = bundle.task, bundle.task.finding_names
    images = [s for s in shuffled if studies.has_image(s) or not task.has_image]
    found: dict[str, Any] = {}
    for slow, count in ((False, params.studies), (True, params.slow_studies)):
        methods = [m for m in METHODS.values() if m.modality in task.modalities and m.slow == slow]
        cases = [
            (studies.study(study_id, with_image=True), Target(findings[k % len(findings)]))
            for k, study_id in enumerate(images[:count])
        ]
        found |= measure(bundle, cases, methods, params.seed)
    return {name: found[name] for name in METHODS if name in found}


def _localised(
    bundle: Bundle, studies: Studies, heldout: pd.DataFrame, params: ExplainParams
) -> dict[str, Any] | None:
    """Only the synthetic source keeps masks; for others there is nothing to measure against."""
    if not bundle.task.synthetic or not bundle.task.has_image:
        return None
    count, seed = params.localisation, params.seed
    return localisation_figures(bundle, studies, heldout, _quick_image_methods(), count, seed)


def _on_lungs(
    bundle: Bundle, studies: Studies, shuffled: list[str], params: ExplainParams
) -> dict[str, Any] | None:
    if params.lung_masks is None or not bundle.task.has_image:
        return None
    images = [s for s in shuffled if studies.has_image(s)]
    images, folder = images[: params.localisation], Path(params.lung_masks).expanduser()
    return lung_figures(bundle, studies, images, _quick_image_methods(), folder, params.seed)


def _quick_image_methods() -> list[Method]:
    return [method for method in methods_of("image") if not method.slow]
