"""Stage `reference`: freeze the reference of monitoring, thresholds included.

Held-out studies become the records that the prediction log would contain of them, so that one
function builds the tables of reference and window.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.numpy import load_file

from cxr_mm.core.config import Params, ReferenceParams
from cxr_mm.core.errors import StageError
from cxr_mm.core.files import atomic_directory, read_json, save_tensors, write_json
from cxr_mm.core.paths import TaskPaths
from cxr_mm.core.record import Outcome, PredictionRecord
from cxr_mm.core.task import Task
from cxr_mm.core.types import AVAILABLE, MODALITIES, Modality, plural, subset_name
from cxr_mm.data.embeddings import load_embeddings, load_parts
from cxr_mm.data.manifest import Manifest, clinical_column
from cxr_mm.data.notes import mask_note, note_traits
from cxr_mm.imaging.quality import QUALITY_NAMES
from monitoring.concept_drift import performance
from monitoring.data_drift import Check, Thresholds, checks_of, learn_thresholds
from monitoring.statistics import as_codes
from monitoring.table import (
    EMBEDDINGS,
    Projection,
    WatchedColumn,
    embedding_of,
    fit_projection,
    records_table,
    watched_columns,
)

if TYPE_CHECKING:
    from cxr_mm.models.bundle import Bundle

FORMAT = 1
"""Number of what `freeze` writes, thresholds and what they are of; a reference without it is of a
development version, whose statistics were others."""
MOST_STUDIES = 2000
"""Studies kept; of more, as many drawn by patient. Windows gain nothing from a larger one."""
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Held-out studies have no time of prediction; the same one keeps the stage's output the same."""


def heldout_records(
    task: Task, paths: TaskPaths, digest: str, seed: int, prior: Mapping[str, float]
) -> tuple[list[PredictionRecord], list[Outcome]]:
    """Records and outcomes of held-out studies, drawn by patient where there are many.

    Args:
        task: the question.
        paths: of what ingest, embed and fuse left.
        digest: of the bundle.
        seed: which studies, of many.
        prior: finding → probability of the model without any input.

    Raises:
        StageError: an earlier stage is missing or belongs to another run.
    """
    from cxr_mm.inference.table import PredictionTable  # as below: torch, for this stage alone

    requested = _read(paths.heldout, "fuse")
    held = requested[requested["subset"] == AVAILABLE].reset_index(drop=True)
    held = _at_most(held, MOST_STUDIES, seed)
    answers = _answers(requested[requested["subset"] != AVAILABLE], task)
    manifest = Manifest.checked(task, _read(paths.manifest, "ingest"))
    positions = _positions(manifest, held, paths)
    quality = _read(paths.ingest / "quality.parquet", "ingest").set_index("study_id")
    quality = quality.reindex(held["study_id"])[list(QUALITY_NAMES)]
    # The first part of a note's embedding, which is all that the log keeps of it.
    embeddings = load_embeddings(paths)
    if "note" in embeddings:
        embeddings["note"] = embeddings["note"][:, : load_parts(paths)["note"][0]["length"]]
    mask, frame = manifest.mask()[positions], manifest.frame.iloc[positions]
    patients = as_codes(held["group"].to_numpy(object))
    records, codec = [], PredictionTable(task.finding_names)
    for i in range(len(held)):
        given = tuple(m for m, present in zip(MODALITIES, mask[i], strict=True) if present)
        row, study = held.iloc[i], frame.iloc[i]
        records.append(
            PredictionRecord(
                record_id=str(i),
                created_at=EPOCH,
                task=task.name,
                model=task.name,
                digest=digest,
                study_hash=study_name(i),
                patient_hash=f"patient {patients[i]}",
                modalities=given,
                view=_known(study["view"]),
                clinical={n: _known(study[clinical_column(n)]) for n in task.clinical_names},
                quality={str(k): float(v) for k, v in quality.iloc[i].items() if np.isfinite(v)},
                image_embedding=_row(embeddings, "image", given, positions[i]),
                note_embedding=_row(embeddings, "note", given, positions[i]),
                probabilities=codec.read(row, "probability"),
                positives=codec.read(row, "positive"),
                certainties=codec.read(row, "certainty"),
                note_traits=_note_traits(task, study["note"], given),
                shares=_shares(answers.get(row["study_id"], {}), task, given, prior),
            )
        )
    labels = {name: held[f"label.{name}"] for name in task.finding_names}
    return records, known_outcomes(labels, "heldout")


Answers = dict[str, dict[str, NDArray[np.float64]]]


def _answers(requested: pd.DataFrame, task: Task) -> Answers:
    """Study → subset of modalities → probability of each finding (F,)."""
    columns = [f"probability.{name}" for name in task.finding_names]
    return {
        str(study): dict(zip(rows["subset"], rows[columns].to_numpy(float), strict=True))
        for study, rows in requested.groupby("study_id")
    }


def _shares(
    answers: dict[str, NDArray[np.float64]],
    task: Task,
    given: tuple[Modality, ...],
    prior: Mapping[str, float],
) -> dict[str, dict[Modality, float]]:
    """Share of each modality in each probability, as `Predictor` computes it."""
    from cxr_mm.inference.shares import coalitions, named_shares, shapley

    if len(task.modalities) < 2:
        return {}
    chosen = [
        tuple(m for m, c in zip(given, row, strict=True) if c) for row in coalitions(len(given))
    ]
    if any(subset and subset_name(subset) not in answers for subset in chosen):
        return {}
    nothing = np.array([prior[name] for name in task.finding_names])
    values = shapley(np.stack([answers[subset_name(s)] if s else nothing for s in chosen]))
    return named_shares(task.finding_names, given, values)


def _note_traits(task: Task, note: str | None, given: tuple[Modality, ...]) -> dict[str, float]:
    if task.note is None or note is None or "note" not in given:
        return {}
    return note_traits(mask_note(note, task.note))


def known_outcomes(labels: Mapping[str, "pd.Series[Any]"], source: str) -> list[Outcome]:
    """Finding → label of each study, in the order of their numbers, where it is known."""
    return [
        Outcome(
            study_hash=study_name(number),
            finding=name,
            label=int(label),
            recorded_at=EPOCH,
            source=source,
        )
        for name, known in labels.items()
        for number, label in enumerate(known)
        if pd.notna(label)
    ]


def study_name(number: int) -> str:
    """Name of a study in a reference, in place of its id."""
    return f"study {number}"


def _positions(manifest: Manifest, held: pd.DataFrame, paths: TaskPaths) -> NDArray[np.int64]:
    """Row in the manifest of each held-out study."""
    rows = pd.Series(range(len(manifest)), index=manifest.frame["study_id"])
    rows = rows.reindex(held["study_id"])
    if rows.isna().any():
        raise StageError(
            f"study {rows.index[rows.isna()][0]!r} is not in the manifest",
            field=str(paths.heldout),
            remedy="Run the stages ingest to fuse again",
        )
    return np.asarray(rows, np.int64)


def _at_most(held: pd.DataFrame, most: int, seed: int) -> pd.DataFrame:
    """Whole patients at random until `most` rows are reached."""
    if len(held) <= most:
        return held
    patients = as_codes(held["group"].to_numpy(object))
    rank = np.random.default_rng(seed).permutation(patients.max() + 1)[patients]
    chosen = np.sort(np.argsort(rank, kind="stable")[:most])
    return held.iloc[chosen].reset_index(drop=True)


def _row(
    embeddings: dict[str, NDArray[np.float32]],
    modality: Modality,
    given: tuple[Modality, ...],
    position: int,
) -> tuple[float, ...] | None:
    if modality not in given or modality not in embeddings:
        return None
    return tuple(embeddings[modality][position].tolist())


def _known(value: Any) -> Any:
    """A cell's value, None where it is missing."""
    return None if pd.isna(value) else value


def _read(path: Path, stage: str) -> pd.DataFrame:
    if not path.exists():
        raise StageError("no such file", field=str(path), remedy=f"Run the stage {stage} first")
    return pd.read_parquet(path)


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
        images, images_rejected: held-out images, and those of them that the input gate rejects;
            None where the model has no input gate.
        unjudged: what this reference cannot judge and why, a sentence each.
    """

    task: Task
    digest: str
    params: ReferenceParams
    quality: tuple[str, ...]
    projections: dict[Modality, Projection]
    table: pd.DataFrame
    thresholds: Thresholds
    performance: dict[str, dict[str, float | None]]
    images: int = 0
    images_rejected: int | None = 0
    unjudged: tuple[str, ...] = ()

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
        StageError: an earlier stage is missing.
    """
    from cxr_mm.models.bundle import load_bundle

    bundle = load_bundle(paths.bundle)
    records, outcomes = heldout_records(
        task, paths, bundle.digest, params.reference.seed, bundle.prior
    )
    refused = rejected_images(bundle, records)
    freeze(
        task, bundle.digest, records, outcomes, params.reference, paths.reference, refused=refused
    )


def rejected_images(bundle: "Bundle", records: Sequence[PredictionRecord]) -> int | None:
    """How many of the records' images the input gate rejects; None without a gate."""
    images = [r.image_embedding for r in records if r.image_embedding is not None]
    if bundle.gate is None:
        return None
    if not images:
        return 0
    decisions = bundle.gate.check(np.array(images, np.float32))
    return sum(decision is not None and decision.refused for decision in decisions)


def freeze(
    task: Task,
    digest: str,
    records: list[PredictionRecord],
    outcomes: list[Outcome],
    params: ReferenceParams,
    out: Path,
    refused: int | None = 0,
) -> None:
    """Learn projections and thresholds from records and write the reference, whole or not at all.

    Of too few records it is written without thresholds, and says what it cannot judge.

    Args:
        task: the question.
        digest: of the bundle.
        records, outcomes: of held-out studies.
        params: with which thresholds are learnt.
        out: folder.
        refused: how many of the images the input gate rejects; None without a gate.
    """
    quality = tuple(dict.fromkeys(name for r in records for name in r.quality))
    projections, fit, unjudged = _projections(records, params)
    table = records_table(records, task, quality, projections, outcomes)
    for modality, rows in fit.items():
        scores = [c for c in table.columns if c.startswith(f"{EMBEDDINGS[modality]}.")]
        table.loc[rows, scores] = np.nan
    checks = checks_of(watched_columns(task, quality, projections))
    if refused is None and task.has_image:
        unjudged.append("Rejected images: the model has no input gate")
    if len(table) >= (needed := 2 * min(params.window_sizes)):
        thresholds = learn_thresholds(table, checks, params)
    else:
        thresholds = Thresholds(windows=(), patients=table["patient"].nunique())
        unjudged.append(
            f"the reference has {plural(len(table), 'held-out study')}, {needed} are needed"
        )
    figures = performance(table, task.finding_names)
    about = {
        "format": FORMAT,
        "task": task.model_dump(mode="json"),
        "digest": digest,
        "params": params.model_dump(mode="json"),
        "quality": quality,
        "n": len(table),
        "patients": table["patient"].nunique(),
        "images": sum("image" in r.modalities for r in records),
        "images_rejected": refused,
        "unjudged": unjudged,
        "performance": {
            name: {metric: float(value[0]) for (f, metric), value in figures.items() if f == name}
            for name in task.finding_names
        },
    }
    with atomic_directory(out) as aside:
        table.to_parquet(aside / "reference.parquet", index=False)
        write_json(aside / "thresholds.json", thresholds.model_dump(mode="json"))
        write_json(aside / "reference.json", about)
        save_tensors(aside / "pca.safetensors", _to_tensors(projections))


def load_reference(folder: Path) -> Reference:
    """Load what `freeze` wrote.

    Raises:
        StageError: the folder is missing, incomplete, damaged or of another format.
    """
    try:
        about = read_json(folder / "reference.json")
        if about.get("format") != FORMAT:
            raise StageError(
                "a reference of another version, whose thresholds are of other statistics",
                field=str(folder),
                remedy="Run python -m monitoring reference TASK again",
            )
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
            images=about["images"],
            images_rejected=about["images_rejected"],
            unjudged=tuple(about.get("unjudged", ())),
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


def _projections(
    records: list[PredictionRecord], params: ReferenceParams
) -> tuple[dict[Modality, Projection], dict[Modality, NDArray[np.int64]], list[str]]:
    """Projection of each embedding there is, the rows it was fitted on, and those left out."""
    patients = as_codes(np.array([r.patient_hash or r.study_hash for r in records], object))
    projections: dict[Modality, Projection] = {}
    fit: dict[Modality, NDArray[np.int64]] = {}
    left_out = []
    for modality in EMBEDDINGS:
        embeddings = [embedding_of(record, modality) for record in records]
        rows = np.array([i for i, e in enumerate(embeddings) if e is not None], np.int64)
        if not len(rows):
            continue
        present = np.array([embeddings[i] for i in rows], np.float32)
        try:
            projection, used = fit_projection(
                present, patients[rows], params.components, params.seed
            )
        except StageError as error:
            left_out.append(f"Embedding of the {modality}: {error.message}")
            continue
        projections[modality], fit[modality] = projection, rows[used]
    return projections, fit, left_out


def _to_tensors(projections: dict[Modality, Projection]) -> dict[str, NDArray[np.float32]]:
    return {
        f"{modality}.{part}": getattr(projection, part)
        for modality, projection in projections.items()
        for part in ("mean", "components", "scale")
    }


def _from_tensors(tensors: dict[str, NDArray[np.float32]]) -> dict[Modality, Projection]:
    return {
        m: Projection(tensors[f"{m}.mean"], tensors[f"{m}.components"], tensors[f"{m}.scale"])
        for m in MODALITIES
        if f"{m}.mean" in tensors
    }
