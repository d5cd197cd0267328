"""Stage `reference`: freezes what monitoring compares against, thresholds included.

Held-out studies are turned into the very records that the prediction log would hold of them, so
that one function makes the tables of reference and current.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.contracts.record import Outcome, PredictionRecord
from cxr_mm.contracts.task import Task
from cxr_mm.errors import BundleError, StageError
from cxr_mm.files import folder_written_aside, read_json, write_json
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.bundle_files import load_bundle
from cxr_mm.params import Params, ReferenceParams
from cxr_mm.paths import TaskPaths
from monitoring.concept import performance
from monitoring.drift import Check, Thresholds, checks_of, learn_thresholds
from monitoring.heldout import heldout_records
from monitoring.projection import Projection, fit_projection
from monitoring.table import EMBEDDINGS, WatchedColumn, records_table, watched_columns
from monitoring.windows import as_codes


@dataclass(frozen=True)
class Reference:
    """A frozen reference, loaded.

    Args:
        task: the question.
        digest: digest of the bundle that made the predictions.
        params: with which thresholds were learnt.
        quality: image quality statistics that are watched.
        projections: of the embeddings.
        table: rows as `records_table` makes them, with labels.
        thresholds: learnt ones.
        performance: finding → metric → value on the reference.
        films, films_refused: held-out films, and those of them that the film gate refuses.
    """

    task: Task
    digest: str
    params: ReferenceParams
    quality: tuple[str, ...]
    projections: dict[Modality, Projection]
    table: pd.DataFrame
    thresholds: Thresholds
    performance: dict[str, dict[str, float | None]]
    films: int = 0
    films_refused: int = 0

    @property
    def columns(self) -> list[WatchedColumn]:
        """Columns that are compared."""
        return watched_columns(self.task, self.quality, self.projections)

    @property
    def checks(self) -> list[Check]:
        """Checks that make up the verdict."""
        return checks_of(self.columns)


def reference(task: Task, params: Params, paths: TaskPaths) -> None:
    """Run the stage: held-out predictions → paths.reference.

    Raises:
        StageError: an earlier stage is missing, or there are too few held-out studies.
    """
    bundle = load_bundle(paths.bundle)
    records, outcomes = heldout_records(
        task, paths, bundle.digest, params.reference.seed, bundle.prior
    )
    refused = refused_films(bundle, records)
    freeze(
        task, bundle.digest, records, outcomes, params.reference, paths.reference, refused=refused
    )


def refused_films(bundle: Bundle, records: Sequence[PredictionRecord]) -> int:
    """How many of the records' films the film gate refuses."""
    films = [r.image_embedding for r in records if r.image_embedding is not None]
    if not films or bundle.gate is None:
        return 0
    doubts = bundle.gate.doubts(np.array(films, np.float32))
    return sum(doubt is not None and doubt.refused for doubt in doubts)


def freeze(
    task: Task,
    digest: str,
    records: list[PredictionRecord],
    outcomes: list[Outcome],
    params: ReferenceParams,
    out: Path,
    refused: int = 0,
) -> None:
    """Learn projections and thresholds from records and write the reference, whole or not at all.

    Args:
        task: the question.
        digest: of the bundle.
        records, outcomes: of held-out studies.
        params: with which thresholds are learnt.
        out: folder.
        refused: how many of the films the film gate refuses.

    Raises:
        StageError: too few studies.
    """
    smallest = min(params.window_sizes)
    if len(records) < 2 * smallest:
        raise StageError(
            f"{len(records)} held-out studies; windows of {smallest} need at least {2 * smallest}",
            field="reference.window_sizes",
            remedy="Hold out more studies, or judge smaller windows",
        )
    quality = tuple(dict.fromkeys(name for r in records for name in r.quality))
    projections, fitted = _projections(records, params)
    table = records_table(records, task, quality, projections, outcomes)
    for modality, rows in fitted.items():
        scores = [c for c in table.columns if c.startswith(f"{EMBEDDINGS[modality]}.")]
        table.loc[rows, scores] = np.nan
    checks = checks_of(watched_columns(task, quality, projections))
    thresholds = learn_thresholds(table, checks, params)
    figures = performance(table, task.finding_names)
    about = {
        "task": task.model_dump(mode="json"),
        "digest": digest,
        "params": params.model_dump(mode="json"),
        "quality": quality,
        "n": len(table),
        "patients": table["patient"].nunique(),
        "films": sum("image" in r.modalities for r in records),
        "films_refused": refused,
        "performance": {
            name: {metric: float(value[0]) for (f, metric), value in figures.items() if f == name}
            for name in task.finding_names
        },
    }
    with folder_written_aside(out) as aside:
        table.to_parquet(aside / "reference.parquet", index=False)
        write_json(aside / "thresholds.json", thresholds.model_dump(mode="json"))
        write_json(aside / "reference.json", about)
        save_file(_to_tensors(projections), aside / "pca.safetensors")


def load_reference(folder: Path) -> Reference:
    """Load what `freeze` wrote.

    Raises:
        StageError: the folder is missing, incomplete or damaged.
    """
    try:
        about = read_json(folder / "reference.json")
        tensors = load_file(folder / "pca.safetensors")
        return Reference(
            task=Task.model_validate(about["task"]),
            digest=about["digest"],
            params=ReferenceParams.model_validate(about["params"]),
            quality=tuple(about["quality"]),
            projections=_from_tensors(tensors),
            table=pd.read_parquet(folder / "reference.parquet"),
            thresholds=Thresholds.model_validate(read_json(folder / "thresholds.json")),
            performance=about["performance"],
            films=about["films"],
            films_refused=about["films_refused"],
        )
    except FileNotFoundError as error:
        raise StageError(
            "no reference", field=str(folder), remedy="Run python -m monitoring reference TASK"
        ) from error
    except (OSError, ValueError, KeyError, ValidationError, SafetensorError) as error:
        raise StageError(
            f"the reference is damaged ({str(error).splitlines()[0]})",
            field=str(folder),
            remedy="Run python -m monitoring reference TASK again",
        ) from error


def bundle_digest(bundle: Path) -> str:
    """Digest that a bundle says it has.

    Raises:
        BundleError: no bundle there, or a damaged one.
    """
    path = bundle / "bundle.json"
    try:
        return str(read_json(path)["digest"])
    except FileNotFoundError as error:
        raise BundleError(
            "no such bundle", field=str(bundle), remedy="Run the stage fuse first"
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BundleError(
            "not a bundle's description", field=str(path), remedy="Run the stage fuse again"
        ) from error


def _projections(
    records: list[PredictionRecord], params: ReferenceParams
) -> tuple[dict[Modality, Projection], dict[Modality, NDArray[np.int64]]]:
    """Projection of each embedding there is, and the rows it was fitted on."""
    patients = as_codes(np.array([r.patient_hash or r.study_hash for r in records], object))
    projections: dict[Modality, Projection] = {}
    fitted: dict[Modality, NDArray[np.int64]] = {}
    found: dict[Modality, list[tuple[float, ...] | None]] = {
        "image": [r.image_embedding for r in records],
        "note": [r.note_embedding for r in records],
    }
    for modality, embeddings in found.items():
        rows = np.array([i for i, e in enumerate(embeddings) if e is not None], np.int64)
        if len(rows):
            there = np.array([embeddings[i] for i in rows], np.float32)
            projection, used = fit_projection(there, patients[rows], params.components, params.seed)
            projections[modality], fitted[modality] = projection, rows[used]
    return projections, fitted


def _to_tensors(projections: dict[Modality, Projection]) -> dict[str, NDArray[np.float32]]:
    return {
        f"{modality}.{part}": np.ascontiguousarray(getattr(projection, part))
        for modality, projection in projections.items()
        for part in ("mean", "components", "scale")
    }


def _from_tensors(tensors: dict[str, NDArray[np.float32]]) -> dict[Modality, Projection]:
    return {
        m: Projection(tensors[f"{m}.mean"], tensors[f"{m}.components"], tensors[f"{m}.scale"])
        for m in MODALITIES
        if f"{m}.mean" in tensors
    }
