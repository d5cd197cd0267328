"""Studies of scenarios: labelled ones of a task, with their films, one at a time.

Of the synthetic task new ones are made up that no model has seen; of an official test part its
studies; of a task that is divided into folds all studies, which its bundle was fitted on. The
reference of a scenario is made of the same kind of studies, so that both sides are alike.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxr_mm.contracts.manifest import clinical_column, finding_column
from cxr_mm.contracts.study import Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.ingest import load_manifest
from cxr_mm.data.labels import to_manifest
from cxr_mm.data.radiograph import read_radiograph
from cxr_mm.data.sources import read_source
from cxr_mm.paths import TaskPaths
from monitoring.scenarios.bank import Labelled

LONGEST = 512
"""Pixels of the longer side to which films are brought before they are altered, for time."""
SEED = 77
"""Of the made-up population; that of the shipped task is 0."""


def labelled_studies(task: Task, paths: TaskPaths, most: int, work: Path) -> list[Labelled]:
    """Labelled studies in the order of their patients, drawn at random where there are more.

    Args:
        task: the question.
        paths: of what ingest left; not needed for the synthetic task.
        most: how many at most.
        work: folder for made-up films.
    """
    if task.source.kind == "synthetic":
        options = {"studies": most, "seed": SEED}
        source = task.source.model_copy(update={"options": options})
        raw = read_source(task.model_copy(update={"source": source}), work, work)
        frame = to_manifest(task, raw).manifest.frame
    else:
        frame = load_manifest(paths, task).frame
        if task.split.protocol == "official":
            frame = frame[frame["part"] == "test"]
    labels = frame[[finding_column(name) for name in task.finding_names]]
    frame = frame[labels.notna().any(axis=1)]
    patients = frame["patient_id"].fillna(frame["study_id"])
    order = np.random.default_rng(SEED).permutation(np.unique(patients))
    place = patients.map({patient: i for i, patient in enumerate(order)})
    chosen = frame.iloc[np.argsort(place.to_numpy(), kind="stable")[:most]]
    return [_labelled(task, row) for row in chosen.to_dict("records")]


def split(studies: Sequence[Labelled], edge: int) -> tuple[Sequence[Labelled], Sequence[Labelled]]:
    """The first `edge` studies, or a few more, and the rest; no patient is in both."""
    while 0 < edge < len(studies) and studies[edge].patient == studies[edge - 1].patient:
        edge += 1
    return studies[:edge], studies[edge:]


def _labelled(task: Task, row: Mapping[Any, Any]) -> Labelled:
    labels = {
        name: int(row[finding_column(name)])
        for name in task.finding_names
        if pd.notna(row[finding_column(name)])
    }
    study = str(row["study_id"])
    patient = study if pd.isna(row["patient_id"]) else str(row["patient_id"])
    return Labelled(partial(_study, task, dict(row)), study, patient, labels)


def _study(task: Task, row: Mapping[Any, Any]) -> Study:
    image = None if pd.isna(row["image_path"]) else read_radiograph(Path(row["image_path"])).pixels
    if image is not None and max(image.shape) > LONGEST:
        scale = LONGEST / max(image.shape)
        size = round(image.shape[1] * scale), round(image.shape[0] * scale)
        small = Image.fromarray(image).resize(size, Image.Resampling.BOX)
        image = np.clip(np.asarray(small, np.float32), 0, 1)
    values = {name: row[clinical_column(name)] for name in task.clinical_names}
    return Study(
        study_id=str(row["study_id"]),
        image=image,
        clinical={name: None if pd.isna(v) else v for name, v in values.items()},
        note=None if pd.isna(row["note"]) else row["note"],
        view=None if pd.isna(row["view"]) else row["view"],
    )
