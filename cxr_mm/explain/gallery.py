"""Stage `explain`: a gallery of right and wrong held-out predictions, and how far to believe it."""

from dataclasses import asdict
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from tqdm import tqdm

from cxr_mm.contracts.explanation import Explanation, Target
from cxr_mm.contracts.prediction import NOTICE
from cxr_mm.contracts.task import Task
from cxr_mm.data.ingest import load_manifest
from cxr_mm.errors import StageError
from cxr_mm.explain import render
from cxr_mm.explain.cases import Case, Studies, choose
from cxr_mm.explain.deletion import deletion_advantage
from cxr_mm.explain.faithfulness import localisation_figures, mean_with_interval
from cxr_mm.explain.gallery_page import card, page
from cxr_mm.explain.grad_cam import grad_cam
from cxr_mm.explain.shares import modality_shares
from cxr_mm.files import folder_written_aside, to_json
from cxr_mm.models.bundle import Bundle, load_bundle
from cxr_mm.params import Params
from cxr_mm.paths import TaskPaths

SUBSET = "available"
DRAWN = 400


def explain(task: Task, params: Params, paths: TaskPaths) -> None:
    """Write gallery.json, one PNG per film, index.html and faithfulness.json.

    Raises:
        StageError: `fuse` has left no held-out predictions.
        BundleError: the bundle cannot be read.
    """
    bundle = load_bundle(paths.bundle)
    heldout = _heldout(paths)
    studies = Studies(load_manifest(paths, task), paths.pixels if task.has_image else None)
    chosen = params.explain
    cases = choose(task, heldout, chosen.gallery, chosen.seed)
    with folder_written_aside(paths.explanations) as folder:
        (folder / "films").mkdir()
        shown: list[dict[str, Any]] = []
        cards: list[str] = []
        for case in tqdm(cases, desc="explain", leave=False):
            entry, said, drawn = _case(bundle, studies, case, chosen.seed)
            image = None if drawn is None else render.data_uri(drawn)
            if drawn is not None:
                entry["film"] = f"films/{len(shown):02d}.png"
                (folder / entry["film"]).write_bytes(render.png(drawn))
            cards.append(card(task, case, said, image))
            shown.append(entry)
        figures = {
            **_about(bundle),
            "localisation": _localisation(bundle, studies, heldout, params),
            "deletion": _deletion(studies, shown, chosen.seed),
        }
        for name, value in (("faithfulness", figures), ("gallery", _gallery(bundle, shown))):
            (folder / f"{name}.json").write_text(to_json(value), encoding="utf-8")
        text = page(task, bundle.digest, cards, figures)
        (folder / "index.html").write_text(text, encoding="utf-8")


def _case(
    bundle: Bundle, studies: Studies, case: Case, seed: int
) -> tuple[dict[str, Any], Explanation, NDArray[np.uint8] | None]:
    """What is known of a case, its modality shares, and the drawn film; None without a film."""
    study = studies.study(case.study_id, film=True)
    said = modality_shares(bundle, study)[case.finding]
    parts = {"base": said.base, "shares": said.shares, "logit": said.logit, "film": None}
    entry: dict[str, Any] = {**asdict(case), **parts}
    if study.image is None:
        return entry, said, None
    target = Target(case.finding)
    attribution = grad_cam(bundle, study, target)
    entry["empty"] = attribution.extra["empty"]
    entry["deletion"] = deletion_advantage(bundle, study, target, attribution.values, seed)
    return entry, said, render.overlay(study.image, attribution.values, longest=DRAWN)


def _heldout(paths: TaskPaths) -> pd.DataFrame:
    if not paths.heldout.is_file():
        raise StageError("no such file", field=str(paths.heldout), remedy="Run the stage fuse")
    heldout = pd.read_parquet(paths.heldout)
    return heldout[heldout["subset"] == SUBSET].drop_duplicates("study_id").reset_index(drop=True)


def _about(bundle: Bundle) -> dict[str, Any]:
    return {
        "task": bundle.task.name,
        "digest": bundle.digest,
        "method": "grad_cam",
        "synthetic": bundle.task.synthetic,
        "notice": NOTICE,
    }


def _gallery(bundle: Bundle, shown: list[dict[str, Any]]) -> dict[str, Any]:
    return {**_about(bundle), "cases": shown}


def _localisation(
    bundle: Bundle, studies: Studies, heldout: pd.DataFrame, params: Params
) -> dict[str, Any] | None:
    """Only the synthetic source keeps masks; for others there is nothing to measure against."""
    if not bundle.task.synthetic or not bundle.task.has_image:
        return None
    count, seed = params.explain.localisation, params.explain.seed
    return localisation_figures(bundle, studies, heldout, count, seed)


def _deletion(studies: Studies, shown: list[dict[str, Any]], seed: int) -> dict[str, Any] | None:
    measured = [entry for entry in shown if "deletion" in entry]
    if not measured:
        return None
    patients = [studies.patient(entry["study_id"]) for entry in measured]
    values = [entry["deletion"] for entry in measured]
    return {"n": len(values), "unit": "logit", **mean_with_interval(values, patients, seed)}
