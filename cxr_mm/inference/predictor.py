"""Predictor: a bundle answers studies, with any subset of their modalities."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.prediction import Answer, Certainty, FindingPrediction, Prediction, Reason
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.data.notes import note_traits
from cxr_mm.imaging.quality import image_quality
from cxr_mm.inference.shares import ModalityShares, modality_shares, named_shares
from cxr_mm.models.bundle import Bundle, Encoded, load_bundle
from cxr_mm.models.decision import decide
from cxr_mm.models.input_gate import GateDecision


@dataclass(frozen=True, kw_only=True)
class EncodedAnswer(Answer):
    """An answer with what explanations start from.

    Args:
        encoded: the study, one row.
        modality_shares: in logits and probabilities.
    """

    encoded: Encoded
    modality_shares: ModalityShares

    def without_pixels(self) -> Answer:
        """What the log needs of the answer, without images and encodings."""
        values = {f.name: getattr(self, f.name) for f in fields(Answer)}
        return Answer(**values | {"study": replace(self.study, image=None)})


class Predictor:
    """Bundle + study → Prediction.

    Args:
        bundle: a loaded bundle; shared by threads, never changed.
        accept_any_image: warn of an image that the bundle's input gate would reject.
        keep_maps: keep the feature maps of what is answered, so that a class activation map needs
            no forward pass of its own; those of a batch stay as long as one of its answers.
    """

    def __init__(
        self, bundle: Bundle, accept_any_image: bool = False, keep_maps: bool = False
    ) -> None:
        self.bundle, self.accept_any_image, self._keep_maps = bundle, accept_any_image, keep_maps

    def predict(self, study: Study) -> Prediction:
        """Predict one study.

        Raises:
            InputError: it has no input of the task, or its image is rejected.
        """
        return self.answer_one(study).prediction

    def answer_one(self, study: Study) -> EncodedAnswer:
        """Answer one study by itself: a warning says where no input gate has checked its image.

        Of many studies that is said once for all (`Bundle.unchecked`).

        Raises:
            InputError: it has no input of the task, or its image is rejected.
        """
        answer = self.attempt_one(study)
        if isinstance(answer, InputError):
            raise answer
        prediction, unchecked = answer.prediction, self.bundle.unchecked
        if not unchecked or "image" not in prediction.modalities:
            return answer
        warnings = (unchecked, *prediction.warnings)
        return replace(answer, prediction=prediction.model_copy(update={"warnings": warnings}))

    def attempt_one(self, study: Study) -> EncodedAnswer | InputError:
        """As `attempt`, of one study."""
        return self.attempt([study])[0]

    def answer(
        self, studies: Sequence[Study], show: Sequence[Modality] = MODALITIES
    ) -> list[EncodedAnswer]:
        """Answer several studies at once.

        Args:
            studies: any number; each may have any subset of the modalities.
            show: modalities that the model may see.

        Raises:
            InputError: a study has no input of the task, or an image is rejected.
        """
        answers = []
        for answer in self.attempt(studies, show):
            if isinstance(answer, InputError):
                raise answer
            answers.append(answer)
        return answers

    def attempt(
        self, studies: Sequence[Study], show: Sequence[Modality] = MODALITIES
    ) -> list[EncodedAnswer | InputError]:
        """As `answer`, with the error in place of a study that cannot be answered.

        Raises:
            ClinicalError, NoteError: a feature is unknown, or a note is invalid.
        """
        started = time.perf_counter()
        if not studies:
            return []
        encoded = self.bundle.encode(studies, keep_maps=self._keep_maps)
        return self.attempt_encoded(studies, encoded, show, started)

    def attempt_encoded(
        self,
        studies: Sequence[Study],
        encoded: Encoded,
        show: Sequence[Modality] = MODALITIES,
        started: float | None = None,
    ) -> list[EncodedAnswer | InputError]:
        """As `attempt`, for studies that the bundle has encoded.

        Args:
            studies: any number.
            encoded: the same studies.
            show: modalities that the model may see.
            started: when work on them began, by `time.perf_counter`; None means now.
        """
        started = time.perf_counter() if started is None else started
        encoded = encoded.showing(show)
        decisions = self._gate_decisions(encoded)
        shares = modality_shares(self.bundle, encoded)
        elapsed = (time.perf_counter() - started) * 1000 / max(len(studies), 1)
        return [
            self._error(study, encoded.row(row), decisions[row], show)
            or self._answer(study, encoded.row(row), shares[row], decisions[row], elapsed)
            for row, study in enumerate(studies)
        ]

    def at(self, prediction: Prediction, reason: Reason) -> Prediction:
        """Decide a prediction again at another of the bundle's operating points."""
        probabilities = np.array([found.probability for found in prediction.findings])
        findings = self._findings(prediction.modalities, probabilities, reason)
        return prediction.model_copy(update={"findings": findings})

    def _gate_decisions(self, encoded: Encoded) -> list[GateDecision | None]:
        gate = self.bundle.gate
        images = [encoded.embedding("image", row) for row in range(len(encoded))]
        return [
            None if gate is None or image is None else gate.check(image[None])[0]
            for image in images
        ]

    def _error(
        self,
        study: Study,
        encoded: Encoded,
        decision: GateDecision | None,
        show: Sequence[Modality],
    ) -> InputError | None:
        """Why a study cannot be answered; None where it can."""
        if not encoded.modalities():
            if faults := encoded.clinical[0].faults:
                return faults[0]
            return nothing_usable(study, [m for m in self.bundle.task.modalities if m in show])
        if decision is None or not decision.refused or self.accept_any_image:
            return None
        others = [m for m in self.bundle.task.modalities if m != "image"]
        without = f"predict from {' and '.join(others)} alone, " if others else ""
        return RadiographError(
            f"this does not look like an upright frontal chest radiograph: {decision.reason}",
            field="image",
            remedy=f"Give such an image, {without}or accept any (--accept-any-image of cxr-mm, "
            "accept_any_image of cxr_mm.load)",
        )

    def _answer(
        self,
        study: Study,
        encoded: Encoded,
        shares: ModalityShares,
        decision: GateDecision | None,
        elapsed: float,
    ) -> EncodedAnswer:
        task, note = self.bundle.task, encoded.embedding("note")
        prediction = self._prediction(study, encoded, shares.probabilities, decision)
        several = len(task.modalities) > 1
        return EncodedAnswer(
            study=study,
            prediction=prediction,
            clinical=dict(encoded.clinical[0]),
            quality=_quality(study),
            image_embedding=encoded.embedding("image"),
            note_embedding=None if note is None else note[: self.bundle.loggable("note")],
            note_traits={} if note is None else note_traits(encoded.notes[0]),
            shares=named_shares(task.finding_names, shares.modalities, shares.probability_shares)
            if several
            else {},
            latency_ms=elapsed,
            encoded=encoded,
            modality_shares=shares,
        )

    def _prediction(
        self,
        study: Study,
        encoded: Encoded,
        probabilities: NDArray[np.float64],
        decision: GateDecision | None,
    ) -> Prediction:
        task, modalities = self.bundle.task, encoded.modalities()
        findings = self._findings(modalities, probabilities)
        possible = tuple(f.finding for f in findings if f.certainty != "absent")
        return Prediction(
            study_id=study.study_id,
            task=task.name,
            model=self.bundle.name,
            digest=self.bundle.digest,
            modalities=modalities,
            findings=findings,
            coverage=self.bundle.bounds(modalities)[0].coverage,
            classes=possible if task.problem == "multiclass" else (),
            warnings=(*study.warnings, *self._warnings(study, encoded, decision)),
            synthetic=task.synthetic,
        )

    def _findings(
        self,
        modalities: tuple[Modality, ...],
        probabilities: NDArray[np.float64],
        reason: Reason | None = None,
    ) -> tuple[FindingPrediction, ...]:
        task, bounds = self.bundle.task, self.bundle.bounds(modalities)
        points = [self.bundle.operating_point(f.name, modalities, reason) for f in task.findings]
        decided = decide(task.problem, probabilities[None], [points], [bounds])
        certainties: list[Certainty] = decided.certainties[0].tolist()
        return tuple(
            FindingPrediction(
                finding=finding.name,
                title=finding.title,
                probability=float(probabilities[f]),
                threshold=None if point is None else point.threshold,
                positive=bool(decided.positives[0, f]),
                certainty=certainties[f],
            )
            for f, (finding, point) in enumerate(zip(task.findings, points, strict=True))
        )

    def _warnings(self, study: Study, encoded: Encoded, decision: GateDecision | None) -> list[str]:
        views = self.bundle.task.views
        warnings = [*encoded.clinical[0].warnings]
        if study.view and views and study.view not in views:
            warnings.append(f"view: {study.view} was not among those trained on")
        warnings += self.bundle.clinical.unseen(encoded.clinical[0])
        if decision:
            warnings.append(
                f"image: it may be no upright frontal chest radiograph: {decision.reason}"
            )
        return warnings


def nothing_usable(study: Study, used: Sequence[Modality]) -> InputError:
    """Say that a study has none of the inputs that are used."""
    return InputError(
        "there is nothing in it that this model can use",
        field=f"study {study.study_id}",
        remedy=f"Give at least one of {', '.join(used)}",
    )


def _quality(study: Study) -> dict[str, float]:
    """Image quality as measured on reading; measured now where the pixels came without a file."""
    if study.image is None:
        return {}
    return dict(study.quality) or image_quality(study.image)


def load_predictor(
    folder: Path, accept_any_image: bool = False, keep_maps: bool = False
) -> Predictor:
    """Load a bundle and make its predictor.

    Raises:
        BundleError: see `load_bundle`.
    """
    return Predictor(load_bundle(folder), accept_any_image, keep_maps)
