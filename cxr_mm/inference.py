"""Inference: a bundle answers studies, with any subset of their modalities."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from cxr_mm.contracts.answer import Answer
from cxr_mm.contracts.modality import MODALITIES, Modality
from cxr_mm.contracts.prediction import FindingPrediction, Prediction
from cxr_mm.contracts.study import Study
from cxr_mm.data.quality import image_quality
from cxr_mm.errors import InputError
from cxr_mm.models.bundle import Bundle, load_bundle


class Predictor:
    """Bundle + study → Prediction.

    Args:
        bundle: a loaded bundle; shared by threads, never changed.
    """

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle

    def predict(self, study: Study) -> Prediction:
        """Predict one study.

        Raises:
            InputError: nothing the task can use was given, or a value is refused.
        """
        return self.answer([study])[0].prediction

    @torch.inference_mode()
    def answer(
        self, studies: Sequence[Study], show: Sequence[Modality] = MODALITIES
    ) -> list[Answer]:
        """Answer several studies at once, with what explanation and log need besides.

        Args:
            studies: any number; each may have any subset of the modalities.
            show: modalities the model is allowed to see.

        Raises:
            InputError: a study has nothing the task can use, or a value is refused.
        """
        if not studies:
            return []
        started = time.perf_counter()
        for study in studies:
            self._check_usable(study, show)
        batch = self.bundle.prepare(studies)
        mask = batch.mask & torch.tensor([m in show for m in MODALITIES])
        embeddings = self.bundle.embeddings(batch)
        logits = self.bundle.logits(embeddings, mask)
        probabilities = self.bundle.probabilities(logits)
        elapsed = (time.perf_counter() - started) * 1000 / len(studies)
        return [
            Answer(
                study=study,
                prediction=self._prediction(study, _present(mask[row]), probabilities[row]),
                clinical=self.bundle.check(study),
                quality={} if study.image is None else image_quality(study.image),
                image_embedding=_row(embeddings, "image", mask, row),
                note_embedding=_row(embeddings, "note", mask, row),
                latency_ms=elapsed,
            )
            for row, study in enumerate(studies)
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
        self, study: Study, modalities: tuple[Modality, ...], probabilities: NDArray[np.float64]
    ) -> Prediction:
        task = self.bundle.task
        likeliest = int(probabilities.argmax())
        findings = []
        for number, finding in enumerate(task.findings):
            point = self.bundle.operating_point(finding.name, modalities)
            probability = float(probabilities[number])
            positive = number == likeliest if point is None else probability >= point.threshold
            findings.append(
                FindingPrediction(
                    finding=finding.name,
                    title=finding.title,
                    probability=probability,
                    threshold=None if point is None else point.threshold,
                    positive=positive,
                )
            )
        return Prediction(
            study_id=study.study_id,
            task=task.name,
            model=self.bundle.name,
            digest=self.bundle.digest,
            modalities=modalities,
            findings=tuple(findings),
            warnings=(*study.warnings, *self._warnings(study)),
            synthetic=task.synthetic,
        )

    def _warnings(self, study: Study) -> list[str]:
        task = self.bundle.task
        found = [
            f"{modality}: given, but this model does not use it"
            for modality in study.modalities
            if modality not in task.modalities
        ]
        if study.view and task.views and study.view not in task.views:
            found.append(f"view: {study.view} was not among those trained on")
        return found


def _present(mask: torch.Tensor) -> tuple[Modality, ...]:
    return tuple(m for m, there in zip(MODALITIES, mask.tolist(), strict=True) if there)


def _row(
    embeddings: dict[Modality, torch.Tensor], modality: Modality, mask: torch.Tensor, row: int
) -> NDArray[np.float32] | None:
    if modality not in embeddings or not mask[row, MODALITIES.index(modality)]:
        return None
    vector: NDArray[np.float32] = embeddings[modality][row].float().numpy()
    return vector


def load_predictor(folder: Path) -> Predictor:
    """Load a bundle and make its predictor.

    Raises:
        BundleError: see `load_bundle`.
    """
    return Predictor(load_bundle(folder))
