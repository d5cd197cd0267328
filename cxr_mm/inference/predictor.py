"""Inference: a bundle answers studies, with any subset of their modalities."""

import time
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import factorial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.core.errors import InputError, RadiographError
from cxr_mm.core.prediction import Answer, FindingPrediction, Prediction, Reason
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.data.notes import mask_note, note_traits
from cxr_mm.imaging.quality import image_quality
from cxr_mm.models.bundle import Bundle, load_bundle
from cxr_mm.models.decision import certainties
from cxr_mm.models.input_gate import GateDecision


def coalitions(players: int) -> NDArray[np.bool_]:
    """Every coalition of the players, (2^m, m); row k holds the bits of k, so row 0 is empty."""
    return (np.arange(2**players)[:, None] >> np.arange(players) & 1).astype(bool)


def shapley(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Exact Shapley values.

    Args:
        values: (2^m, …), the value of each coalition in the order of `coalitions`.

    Returns:
        (m, …); their sum over m is `values[-1] - values[0]`.
    """
    players = values.shape[0].bit_length() - 1
    shares = np.zeros((players, *values.shape[1:]))
    for player in range(players):
        others = [p for p in range(players) if p != player]
        for size in range(players):
            weight = factorial(size) * factorial(players - size - 1) / factorial(players)
            for members in combinations(others, size):
                without = sum(1 << p for p in members)
                shares[player] += weight * (values[without | 1 << player] - values[without])
    return shares


class Predictor:
    """Bundle + study → Prediction.

    Args:
        bundle: a loaded bundle; shared by threads, never changed.
        accept_any_image: warn of a picture that the bundle's input gate would refuse.
    """

    def __init__(self, bundle: Bundle, accept_any_image: bool = False) -> None:
        self.bundle, self.accept_any_image = bundle, accept_any_image

    def predict(self, study: Study) -> Prediction:
        """Predict one study.

        Raises:
            InputError: nothing the task can use was given, or a value or the image is refused.
        """
        return self.answer([study])[0].prediction

    def answer(
        self, studies: Sequence[Study], show: Sequence[Modality] = MODALITIES
    ) -> list[Answer]:
        """Answer several studies at once, with what explanation and log need besides.

        Args:
            studies: any number; each may have any subset of the modalities.
            show: modalities the model is allowed to see.

        Raises:
            InputError: a study has nothing the task can use, or a value or image is refused.
        """
        answers = []
        for answer in self.attempt(studies, show):
            if isinstance(answer, InputError):
                raise answer
            answers.append(answer)
        return answers

    def at(self, prediction: Prediction, reason: Reason) -> Prediction:
        """The same prediction, positive or negative by another of the bundle's operating points."""
        probabilities = np.array([found.probability for found in prediction.findings])
        findings = self._findings(prediction.modalities, probabilities, reason)
        return prediction.model_copy(update={"findings": findings})

    @torch.inference_mode()
    def attempt(
        self,
        studies: Sequence[Study],
        show: Sequence[Modality] = MODALITIES,
        image_embeddings: NDArray[np.float32] | None = None,
    ) -> list[Answer | InputError]:
        """As `answer`, but where the input gate refuses an image, the error stands for the answer.

        Args:
            studies: any number; each may have any subset of the modalities.
            show: modalities the model is allowed to see.
            image_embeddings: (B, Di), where they are there already.

        Raises:
            InputError: a study has nothing the task can use, or a value is refused.
        """
        if not studies:
            return []
        started = time.perf_counter()
        for study in studies:
            self._check_usable(study, show)
        batch = self.bundle.prepare(studies, images=image_embeddings is None)
        mask = batch.mask & torch.tensor([m in show for m in MODALITIES])
        embeddings = self.bundle.embeddings(batch, image_embeddings)
        fusion = self.bundle.fusion
        encoded = {m: fusion.encode(m, rows) for m, rows in embeddings.items()}
        probabilities = self.bundle.probabilities(fusion.join(encoded, mask))
        shares = self._shares(encoded, mask)
        images = [_row(embeddings, "image", mask, row) for row in range(len(studies))]
        doubts = [self._doubt(image) for image in images]
        elapsed = (time.perf_counter() - started) * 1000 / len(studies)
        return [
            self._refusal(doubt)
            if doubt and doubt.refused and not self.accept_any_image
            else Answer(
                study=study,
                prediction=self._prediction(study, _present(mask[row]), probabilities[row], doubt),
                clinical=self.bundle.check(study),
                quality=_quality(study),
                image_embedding=images[row],
                note_embedding=self._meaning(_row(embeddings, "note", mask, row)),
                note_traits=self._traits(study, mask[row]),
                shares=shares[row],
                latency_ms=elapsed,
            )
            for row, (study, doubt) in enumerate(zip(studies, doubts, strict=True))
        ]

    def _doubt(self, image: NDArray[np.float32] | None) -> GateDecision | None:
        gate = self.bundle.gate
        return None if gate is None or image is None else gate.check(image[None])[0]

    def _refusal(self, doubt: GateDecision) -> RadiographError:
        others = [m for m in self.bundle.task.modalities if m != "image"]
        without = f"predict from {' and '.join(others)} alone, " if others else ""
        return RadiographError(
            f"this does not look like an upright frontal chest radiograph: {doubt.reason}",
            field="image",
            remedy=f"Give such an image, {without}or accept any (--accept-any-image of cxr-mm)",
        )

    def _meaning(self, note: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        return None if note is None else note[: self.bundle.loggable("note")]

    def _traits(self, study: Study, mask: torch.Tensor) -> dict[str, float]:
        spec = self.bundle.task.note
        if spec is None or study.note is None or "note" not in _present(mask):
            return {}
        return note_traits(mask_note(study.note, spec))

    def _shares(
        self, encoded: Mapping[Modality, torch.Tensor], mask: torch.Tensor
    ) -> list[dict[str, dict[Modality, float]]]:
        """Per row of the batch what each modality that is there gives to each probability.

        Args:
            encoded: modality → what `Fusion.encode` made of it.
            mask: (B, 3), True where shown.
        """
        players = self.bundle.task.modalities
        if len(players) < 2:
            return [{} for _ in mask]
        there = torch.tensor([m in players for m in MODALITIES])
        asked = []
        for coalition in coalitions(len(players)):
            shown = there.clone()
            shown[there] = torch.from_numpy(coalition)
            asked.append(self.bundle.probabilities(self.bundle.fusion.join(encoded, mask & shown)))
        values = shapley(np.stack(asked))
        return [
            {
                name: {
                    m: float(values[players.index(m), row, f])
                    for m in players
                    if mask[row, MODALITIES.index(m)]
                }
                for f, name in enumerate(self.bundle.task.finding_names)
            }
            for row in range(len(mask))
        ]

    def _check_usable(self, study: Study, show: Sequence[Modality]) -> None:
        used = [m for m in self.bundle.task.modalities if m in show]
        if not set(used) & set(self.bundle.present(study)):
            raise InputError(
                "there is nothing in it that this model can use",
                field=f"study {study.study_id}",
                remedy=f"Give at least one of {', '.join(used)}",
            )

    def _prediction(
        self,
        study: Study,
        modalities: tuple[Modality, ...],
        probabilities: NDArray[np.float64],
        doubt: GateDecision | None,
    ) -> Prediction:
        task = self.bundle.task
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
            warnings=(*study.warnings, *self._warnings(study, doubt)),
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
        likeliest = int(probabilities.argmax())
        positives = np.array(
            [
                number == likeliest if point is None else probabilities[number] >= point.threshold
                for number, point in enumerate(points)
            ]
        )
        said = certainties(task.problem, probabilities[None], positives[None], [bounds])[0]
        return tuple(
            FindingPrediction(
                finding=finding.name,
                title=finding.title,
                probability=float(probabilities[number]),
                threshold=None if point is None else point.threshold,
                positive=bool(positives[number]),
                certainty=said[number],
            )
            for number, (finding, point) in enumerate(zip(task.findings, points, strict=True))
        )

    def _warnings(self, study: Study, doubt: GateDecision | None) -> list[str]:
        task = self.bundle.task
        found: list[str] = []
        if study.view and task.views and study.view not in task.views:
            found.append(f"view: {study.view} was not among those trained on")
        found += self.bundle.clinical.unseen(self.bundle.check(study))
        if doubt:
            found.append(f"image: it may be no upright frontal chest radiograph: {doubt.reason}")
        return found


def _present(mask: torch.Tensor) -> tuple[Modality, ...]:
    return tuple(m for m, there in zip(MODALITIES, mask.tolist(), strict=True) if there)


def _quality(study: Study) -> dict[str, float]:
    """Image quality as measured on reading; measured now where the pixels came without a file."""
    if study.image is None:
        return {}
    return dict(study.quality) or image_quality(study.image)


def _row(
    embeddings: dict[Modality, torch.Tensor], modality: Modality, mask: torch.Tensor, row: int
) -> NDArray[np.float32] | None:
    if modality not in embeddings or not mask[row, MODALITIES.index(modality)]:
        return None
    vector: NDArray[np.float32] = embeddings[modality][row].float().numpy()
    return vector


def load_predictor(folder: Path, accept_any_image: bool = False) -> Predictor:
    """Load a bundle and make its predictor.

    Raises:
        BundleError: see `load_bundle`.
    """
    return Predictor(load_bundle(folder), accept_any_image)
