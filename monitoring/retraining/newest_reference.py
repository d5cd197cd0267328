"""Newest reference: of the studies that were kept back, since they are the population to come.

A reference of the challenger's held-out studies is of the patients and scanners of before: windows
of the very population that a model was retrained for would go on to alarm against it.
"""

from itertools import islice
from pathlib import Path

import pandas as pd

from cxr_mm.contracts.answer import Answer, record_of
from cxr_mm.contracts.manifest import finding_column
from cxr_mm.contracts.record import PredictionRecord
from cxr_mm.contracts.study import Study
from cxr_mm.data.sources.manifest_csv import DEFAULT_FILE
from cxr_mm.errors import StageError
from cxr_mm.inference import Predictor, load_predictor
from cxr_mm.params import ReferenceParams
from cxr_mm.paths import TaskPaths
from cxr_mm.scoring import BATCH, iter_studies
from monitoring.heldout import EPOCH, known_outcomes, study_name
from monitoring.reference import freeze, refused_films
from monitoring.retraining.judging import kept_back
from monitoring.windows import as_codes

FOLDER = "newest_reference"
"""In an experiment; not an output of its pipeline, which would make it again."""


def newest_reference(paths: TaskPaths, folder: Path, params: ReferenceParams) -> str:
    """Freeze a reference of the studies kept back, if they are enough; says of which it is.

    Args:
        paths: of the experiment.
        folder: what `write_studies` wrote.
        params: of the reference.
    """
    predictor = load_predictor(paths.bundle, accept_any_film=True)
    bundle = predictor.bundle
    frame = kept_back(bundle.task, folder, paths).manifest.frame
    if len(frame) < params.newest_studies:
        return (
            f"held-out studies, since {len(frame)} newest ones are fewer than the "
            f"{params.newest_studies} of reference.newest_studies"
        )
    records = _records(predictor, frame, folder)
    labels = {name: frame[finding_column(name)] for name in bundle.task.finding_names}
    outcomes = known_outcomes(labels, "newest")
    refused = refused_films(bundle, records)
    out = paths.root / FOLDER
    try:
        freeze(bundle.task, bundle.digest, records, outcomes, params, out, refused=refused)
    except StageError as error:
        return f"held-out studies, since the newest ones are too few ({error})"
    return f"the {len(records)} newest studies"


def _records(predictor: Predictor, frame: pd.DataFrame, folder: Path) -> list[PredictionRecord]:
    """What the log would hold of the studies of a manifest's rows; no id is kept."""
    numbers = {name: i for i, name in enumerate(frame["study_id"])}
    patients = as_codes(frame["group"].to_numpy(object))
    found = []
    every = iter_studies(predictor.bundle.task, folder / DEFAULT_FILE)
    studies = (s for s in every if isinstance(s, Study) and s.study_id in numbers)
    while batch := list(islice(studies, BATCH)):
        for study, answer in zip(batch, predictor.attempt(batch), strict=True):
            if isinstance(answer, Answer):
                number = numbers[study.study_id]
                name, patient = study_name(number), f"patient {patients[number]}"
                found.append(
                    record_of(answer, record_id=name, created_at=EPOCH, study=name, patient=patient)
                )
    return found
