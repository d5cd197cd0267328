"""Held-out studies as records: what the prediction log would hold of them, and their labels.

No id is kept: studies and patients are numbered.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from cxr_mm.contracts.manifest import Manifest, clinical_column
from cxr_mm.contracts.modality import MODALITIES, Modality, subset_name
from cxr_mm.contracts.record import Outcome, PredictionRecord
from cxr_mm.contracts.task import Task
from cxr_mm.data.embeddings import load_embeddings, load_parts
from cxr_mm.data.note import mask_note
from cxr_mm.data.note_traits import note_traits
from cxr_mm.data.quality import QUALITY_NAMES
from cxr_mm.errors import StageError
from cxr_mm.evaluation.subsets import AVAILABLE
from cxr_mm.models.shapley import coalitions, shapley
from cxr_mm.paths import TaskPaths
from monitoring.windows import as_codes

MOST_STUDIES = 2000
"""Studies kept; of more, as many drawn by patient. Windows gain nothing from a larger one."""
EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""Held-out studies have no time of prediction; the same one keeps the stage's output the same."""


def heldout_records(
    task: Task, paths: TaskPaths, digest: str, seed: int, prior: Mapping[str, float]
) -> tuple[list[PredictionRecord], list[Outcome]]:
    """Held-out studies with whatever they have; of many, a part drawn by patient.

    Args:
        task: the question.
        paths: of what ingest, embed and fuse left.
        digest: of the bundle.
        seed: which studies, of many.
        prior: finding → probability that the model gives to nothing at all.

    Raises:
        StageError: an earlier stage is missing or belongs to another run.
    """
    asked = _read(paths.heldout, "fuse")
    held = asked[asked["subset"] == AVAILABLE].reset_index(drop=True)
    held = _at_most(held, MOST_STUDIES, seed)
    answers = _answers(asked[asked["subset"] != AVAILABLE], task)
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
    records = []
    for i in range(len(held)):
        given = tuple(m for m, there in zip(MODALITIES, mask[i], strict=True) if there)
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
                probabilities={n: float(row[f"probability.{n}"]) for n in task.finding_names},
                positives={n: bool(row[f"positive.{n}"]) for n in task.finding_names},
                certainties={
                    n: row[f"certainty.{n}"]
                    for n in task.finding_names
                    if _known(row[f"certainty.{n}"])
                },
                note_traits=_note_traits(task, study["note"], given),
                shares=_shares(answers.get(row["study_id"], {}), task, given, prior),
            )
        )
    labels = {name: held[f"label.{name}"] for name in task.finding_names}
    return records, known_outcomes(labels, "heldout")


Answers = dict[str, dict[str, NDArray[np.float64]]]


def _answers(asked: pd.DataFrame, task: Task) -> Answers:
    """Study → subset of modalities → probability of each finding (F,)."""
    found: Answers = {}
    columns = [f"probability.{name}" for name in task.finding_names]
    rows = zip(asked["study_id"], asked["subset"], asked[columns].to_numpy(float), strict=True)
    for study, subset, probabilities in rows:
        found.setdefault(study, {})[subset] = probabilities
    return found


def _shares(
    answers: dict[str, NDArray[np.float64]],
    task: Task,
    given: tuple[Modality, ...],
    prior: Mapping[str, float],
) -> dict[str, dict[Modality, float]]:
    """As `Predictor` shares out: what each modality gives to each probability."""
    if len(task.modalities) < 2:
        return {}
    chosen = [
        tuple(m for m, c in zip(given, row, strict=True) if c) for row in coalitions(len(given))
    ]
    if any(subset and subset_name(subset) not in answers for subset in chosen):
        return {}
    nothing = np.array([prior[name] for name in task.finding_names])
    values = shapley(np.stack([answers[subset_name(s)] if s else nothing for s in chosen]))
    return {
        name: {m: float(values[place, f]) for place, m in enumerate(given)}
        for f, name in enumerate(task.finding_names)
    }


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
    """What stands for the id of a study."""
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
    place = np.random.default_rng(seed).permutation(patients.max() + 1)[patients]
    chosen = np.sort(np.argsort(place, kind="stable")[:most])
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
