"""Stage `explain`: a gallery of right and wrong held-out predictions, what moves the model over
many studies, and how far each method of explanation can be believed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from cxr_mm.contracts.explanation import Target
from cxr_mm.contracts.prediction import NOTICE
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.ingest import load_manifest
from cxr_mm.errors import StageError
from cxr_mm.explain.cases import Studies, choose
from cxr_mm.explain.faithfulness.figures import localisation_figures, lung_figures
from cxr_mm.explain.faithfulness.measure import measure
from cxr_mm.explain.gallery import drawn_cases
from cxr_mm.explain.gallery_page import gallery_page
from cxr_mm.explain.importance import importance
from cxr_mm.explain.methods import METHODS, Method, methods_of
from cxr_mm.files import folder_written_aside, to_json, write_json
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.bundle_files import load_bundle
from cxr_mm.params import ExplainParams, Params
from cxr_mm.paths import TaskPaths

SUBSET = "available"
Measured = dict[str, Any]


def explain(task: Task, params: Params, paths: TaskPaths) -> None:
    """Write the gallery's folder and faithfulness.json.

    Raises:
        StageError: `fuse` has left no held-out predictions.
        BundleError: the bundle cannot be read.
    """
    chosen = params.explain
    figures = measured_on(task, chosen, paths)
    bundle, heldout, studies = _opened(task, paths)
    about = {name: figures[name] for name in ("task", "digest", "synthetic", "notice")}
    shown = _shuffled(heldout, chosen.seed)
    moved = importance(bundle, _read(studies, shown[: chosen.importance]), chosen.seed)
    cases = choose(task, heldout, chosen.gallery, chosen.seed)
    with folder_written_aside(paths.explanations) as folder:
        entries, cards = drawn_cases(bundle, studies, cases, folder)
        gallery = {**about, "importance": moved, "cases": entries}
        (folder / "gallery.json").write_text(to_json(gallery), encoding="utf-8")
        text = gallery_page(task, bundle.digest, cards, figures, moved)
        (folder / "index.html").write_text(text, encoding="utf-8")
    write_json(paths.faithfulness, figures)


def measured_on(task: Task, params: ExplainParams, paths: TaskPaths) -> Measured:
    """What faithfulness.json says: which bundle, `methods`, `localisation` and `lungs`.

    Raises:
        StageError, BundleError: as of `explain`.
    """
    bundle, heldout, studies = _opened(task, paths)
    shown = _shuffled(heldout, params.seed)
    lungs = _on_lungs(bundle, studies, shown, params)  # first: masks may be missing
    return {
        "task": task.name,
        "digest": bundle.digest,
        "synthetic": task.synthetic,
        "notice": NOTICE,
        "methods": _measured(bundle, studies, shown, params),
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


def _read(studies: Studies, chosen: list[str]) -> Iterator[Study]:
    return (studies.study(study_id) for study_id in chosen)


def _of_task(task: Task) -> list[Method]:
    return [method for method in METHODS.values() if method.modality in task.modalities]


def _measured(
    bundle: Bundle, studies: Studies, shown: list[str], params: ExplainParams
) -> dict[str, Any]:
    """Every method of the task; slow ones on fewer studies."""
    findings = bundle.task.finding_names
    films = [s for s in shown if studies.has_image(s) or not bundle.task.has_image]
    found: dict[str, Any] = {}
    for slow, count in ((False, params.studies), (True, params.slow_studies)):
        methods = [method for method in _of_task(bundle.task) if method.slow == slow]
        cases = [
            (studies.study(study_id, film=True), Target(findings[k % len(findings)]))
            for k, study_id in enumerate(films[:count])
        ]
        found |= measure(bundle, cases, methods, params.seed)
    return {name: found[name] for name in METHODS if name in found}


def _localised(
    bundle: Bundle, studies: Studies, heldout: pd.DataFrame, params: ExplainParams
) -> dict[str, Any] | None:
    """Only the synthetic source keeps masks; for others there is nothing to measure against."""
    if not bundle.task.synthetic or not bundle.task.has_image:
        return None
    quick = [method for method in methods_of("image") if not method.slow]
    count, seed = params.localisation, params.seed
    return localisation_figures(bundle, studies, heldout, quick, count, seed)


def _on_lungs(
    bundle: Bundle, studies: Studies, shown: list[str], params: ExplainParams
) -> dict[str, Any] | None:
    if params.lung_masks is None or not bundle.task.has_image:
        return None
    films = [s for s in shown if studies.has_image(s)]
    quick = [method for method in methods_of("image") if not method.slow]
    folder = Path(params.lung_masks).expanduser()
    return lung_figures(bundle, studies, films[: params.localisation], quick, folder, params.seed)
