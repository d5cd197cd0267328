"""Calls: predictions, explanations and feedback for programs, whatever protocol they speak.

What `predict` gives is the JSON of `cxr-mm predict --json`; what `explain` gives is the
`explanation.json` of `cxr-mm explain`, with its pictures in place of their file names.
"""

import base64
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from app.feedback import Verdict, outcomes_of
from app.service import InferenceService
from cxr_mm.core.errors import InputError, LogError
from cxr_mm.core.files import read_json
from cxr_mm.core.prediction import Prediction
from cxr_mm.core.study import Study
from cxr_mm.explain.study import Question

EXPLANATIONS_AT_ONCE, READINGS_AT_ONCE = 1, 4
"""Of one model, by each protocol; readings are quick looks at what was entered or answered."""
MOST_WAITING = 64
"""Requests that may wait for a model; one more is refused with a request to retry."""


def predict(
    service: InferenceService,
    image: str | None,
    clinical: Mapping[str, Any] | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    patient_id: str | None = None,
) -> dict[str, Any]:
    """Predict one study from any subset of its inputs, and log it with keyed hashes of its ids.

    Raises:
        InputError: the study cannot be read.
    """
    study = _study(service, image, clinical, note, view, study_id, patient_id)
    return service.answer(study).answer.prediction.model_dump(mode="json")


def explain(
    service: InferenceService,
    image: str | None,
    clinical: Mapping[str, Any] | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    findings: Sequence[str] | None,
    methods: Sequence[str] | None,
) -> dict[str, Any]:
    """Explain one study; nothing is logged.

    Raises:
        InputError: the study cannot be read, or a finding or method does not exist.
    """
    study = _study(service, image, clinical, note, view, study_id)
    question = Question(_names(findings, "findings"), _names(methods, "methods"))
    with tempfile.TemporaryDirectory() as folder:
        page = service.explanation(study, question, Path(folder) / "explanation")
        result: dict[str, Any] = read_json(page.with_name("explanation.json"))
        for each in result["explanations"]:
            for found in each["attributions"]:
                if "image" in found:
                    picture = page.with_name(found["image"]).read_bytes()
                    found["image"] = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    return result


def feedback(
    service: InferenceService,
    prediction: Mapping[str, Any] | None,
    verdict: Verdict,
    labels: Mapping[str, Any] | None,
    comment: str | None,
) -> dict[str, Any]:
    """Log a reader's feedback on a prediction.

    Args:
        service: whose log it goes to.
        prediction: as `predict` gave it.
        verdict: `agree` or `disagree`.
        labels: where the reader disagrees, finding → `present`, `absent` or `not sure`; or 1 and
            0, true and false, yes and no.
        comment: at most 500 characters, without names.

    Raises:
        InputError: it is no prediction of this task, or a label is unknown.
        LogError: no log is kept, or it cannot be written.
    """
    if service.log is None:
        raise LogError("no log is kept", field="feedback", remedy="Start the app without --no-log")
    try:
        result = Prediction.model_validate(prediction)
    except ValidationError as error:
        raise InputError(
            "not a prediction", field="prediction", remedy="Hand in what /predict gave"
        ) from error
    if result.task != service.task.name or verdict not in ("agree", "disagree"):
        raise InputError(
            "it is of another task, or the verdict is neither agree nor disagree",
            field="prediction",
            remedy=f"Hand in a prediction of {service.task.name} and one of the two",
        )
    if labels is not None and not isinstance(labels, Mapping):
        raise InputError("not a mapping", field="labels", remedy='Write it as {"effusion": 1}')
    outcomes = outcomes_of(
        result, service.task, verdict, labels or {}, comment or "", service.log.hash_id
    )
    service.feedback(outcomes)
    return {"stored": len(outcomes)}


def _study(
    service: InferenceService,
    image: str | None,
    clinical: Mapping[str, Any] | None,
    note: str | None,
    view: str | None,
    study_id: str | None,
    patient_id: str | None = None,
) -> Study:
    if clinical is not None and not isinstance(clinical, Mapping):
        raise InputError(
            "not a mapping", field="clinical", remedy='Write it as {"age": 63, "sex": "F"}'
        )
    return service.study(image, clinical or {}, note, view, study_id, patient_id)


def _names(given: Any, field: str) -> tuple[str, ...]:
    if given is None:
        return ()
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise InputError("not a list of names", field=field, remedy=f"Give {field} as a list")
    return tuple(given)
