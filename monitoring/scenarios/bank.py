"""Bank: studies that the model was asked about as they are and altered in every way, once."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
from numpy.typing import NDArray

from cxr_mm.contracts.answer import Answer, record_of
from cxr_mm.contracts.record import Outcome, PredictionRecord
from cxr_mm.contracts.study import Study
from cxr_mm.inference import Predictor
from monitoring.scenarios.shifts import SHIFTS, Shift, possible

BATCH = 16
START = datetime(2026, 1, 1, tzinfo=UTC)
Said = PredictionRecord | None
"""None: the film gate refused it."""


@dataclass(frozen=True)
class Labelled:
    """A study whose labels are known.

    Args:
        load: reads it; films are not held.
        study: its id.
        patient: whose it is.
        labels: finding → 1 or 0, those that are known.
    """

    load: Callable[[], Study]
    study: str
    patient: str
    labels: dict[str, int]


@dataclass(frozen=True)
class Bank:
    """What the model said.

    Args:
        studies: asked ones.
        plain: of each as it is.
        altered: (shift, strength) → of each, altered; strength 1 where the size is a share.
    """

    studies: Sequence[Labelled]
    plain: list[Said]
    altered: dict[tuple[str, float], list[Said]]

    @property
    def outcomes(self) -> list[Outcome]:
        """Every label."""
        return [
            Outcome(study_hash=s.study, finding=name, label=label, recorded_at=START)
            for s in self.studies
            for name, label in s.labels.items()
        ]


def strengths(shift: Shift) -> tuple[float, ...]:
    """Strengths at which studies have to be altered."""
    if shift.alter is None:
        return ()
    return shift.sizes if shift.kind == "strength" else (1.0,)


def ask(predictor: Predictor, studies: Sequence[Labelled]) -> list[Said]:
    """What the model says of studies as they are."""
    return [said for part in _parts(studies) for said in _asked(predictor, part, _loaded(part))[0]]


def fill(predictor: Predictor, studies: Sequence[Labelled], seed: int = 0) -> Bank:
    """Ask the model about every study, as it is and altered; a film is embedded anew only where
    its pixels change."""
    task = predictor.bundle.task
    shifts = [shift for shift in SHIFTS if possible(shift, task)]
    plain: list[Said] = []
    altered: dict[tuple[str, float], list[Said]] = {
        (shift.name, size): [] for shift in shifts for size in strengths(shift)
    }
    for number, part in enumerate(_parts(studies)):
        loaded = _loaded(part)
        said, films = _asked(predictor, part, loaded)
        plain += said
        for shift in shifts:
            for size in strengths(shift):
                assert shift.alter is not None
                random = np.random.default_rng([seed, number])
                other = [shift.alter(study, size, random, task) for study in loaded]
                same = all(a.image is b.image for a, b in zip(loaded, other, strict=True))
                found = _asked(predictor, part, other, films if same else None)[0]
                altered[shift.name, size] += found
    return Bank(studies, plain, altered)


def _parts(studies: Sequence[Labelled]) -> Iterator[Sequence[Labelled]]:
    return (studies[i : i + BATCH] for i in range(0, len(studies), BATCH))


def _loaded(part: Sequence[Labelled]) -> list[Study]:
    return [study.load() for study in part]


def _asked(
    predictor: Predictor,
    part: Sequence[Labelled],
    studies: list[Study],
    films: NDArray[np.float32] | None = None,
) -> tuple[list[Said], NDArray[np.float32] | None]:
    """Records, and embeddings of the films."""
    if films is None and predictor.bundle.image_encoder is not None:
        films = predictor.bundle.film_embeddings(studies)
    answers = predictor.attempt(studies, films=films)
    said = [
        record_of(
            answer,
            record_id=labelled.study,
            created_at=START,
            study=labelled.study,
            patient=labelled.patient,
        )
        if isinstance(answer, Answer)
        else None
        for answer, labelled in zip(answers, part, strict=True)
    ]
    return said, films
