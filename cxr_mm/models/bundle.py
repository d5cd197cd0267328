"""Bundle: everything a prediction needs, loaded; `bundle_files` has it in a folder."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.contracts.modality import MODALITIES, Modality, subset_name
from cxr_mm.contracts.prediction import ConformalBounds, OperatingPoint, Reason
from cxr_mm.contracts.study import ClinicalValue, Study
from cxr_mm.contracts.task import Task
from cxr_mm.data.clinical import ClinicalTransform, check_clinical
from cxr_mm.data.note import mask_note
from cxr_mm.data.transform import fit_square, normalise
from cxr_mm.models.calibration import link
from cxr_mm.models.classifier import Batch, Classifier
from cxr_mm.models.conformal import Conformal
from cxr_mm.models.film_gate import FilmGate
from cxr_mm.models.fusion import Fusion
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.note_encoder import NoteEncoder
from cxr_mm.models.operating_point import OperatingPoints
from cxr_mm.models.precision import MEASURED_ON, Precision, choose_precision

RECALIBRATED = "recalibrated"
"""Key of `trained_on` under which recalibrations are listed, oldest first."""

_QUICK: dict[tuple[str, int], Precision] = {}
"""Backbone and size → what this machine runs fastest; the same whatever the weights."""


@dataclass(frozen=True)
class Bundle:
    """A loaded bundle, or one about to be saved. All parts are in evaluation mode."""

    task: Task
    size: int
    note_tokens: int
    note_words: int
    fusion: Fusion
    clinical: ClinicalTransform
    image_encoder: ImageEncoder | None
    note_encoder: NoteEncoder | None
    decision: Reason
    operating_points: OperatingPoints
    conformal: Conformal
    trained_on: dict[str, Any]
    background: pd.DataFrame = field(default_factory=pd.DataFrame)
    """As of `draw_background`."""
    background_film: NDArray[np.uint8] | None = None
    """As of `mixtures`, (S, S)."""
    gate: FilmGate | None = None
    digest: str = ""

    @property
    def name(self) -> str:
        """As predictions cite it."""
        backbone = self.image_encoder.spec.backbone if self.image_encoder else "no image"
        again = ", recalibrated" if self.trained_on.get(RECALIBRATED) else ""
        return f"{self.task.name} ({self.fusion.spec.kind} fusion, {backbone}{again})"

    @cached_property
    def classifier(self) -> Classifier:
        """Inputs → calibrated logits, differentiable."""
        return Classifier(self.image_encoder, self.fusion).eval()

    @property
    def quick(self) -> Precision:
        """Precision in which this machine embeds many films fastest; measured when first asked.

        For explanations, which ask hundreds of altered films and weigh their answers together.
        """
        assert self.image_encoder is not None
        network = self.image_encoder.spec.backbone, self.size
        if network not in _QUICK:
            films = torch.zeros(MEASURED_ON, 1, self.size, self.size)
            _QUICK[network] = choose_precision(self.image_encoder, films)
        return _QUICK[network]

    def check(self, study: Study) -> dict[str, ClinicalValue]:
        """Checked clinical values of a study, every feature of the task in order.

        Raises:
            ClinicalError: see `check_clinical`.
        """
        return check_clinical(self.task.clinical, study.clinical)

    def present(self, study: Study) -> tuple[Modality, ...]:
        """Modalities of a study that carry anything; `age=unknown` alone is no clinical feature.

        Raises:
            ClinicalError: see `check_clinical`.
        """
        known = any(value is not None for value in self.check(study).values())
        ignored = not self.task.clinical
        return tuple(m for m in study.modalities if m != "tabular" or known or ignored)

    def prepare(self, studies: Sequence[Study], *, films: bool = True) -> Batch:
        """Studies → batch, by the very transforms of training.

        Args:
            studies: any number.
            films: whether films are needed; else their embeddings are there already.

        Raises:
            ClinicalError, NoteError: a value or note is refused.
        """
        used = self.task.modalities
        present = [set(self.present(study)) & set(used) for study in studies]
        mask = torch.tensor([[m in there for m in MODALITIES] for there in present])
        return Batch(
            mask=mask,
            image=self._images(studies) if films and "image" in used else None,
            tabular=self._tabular(studies) if "tabular" in used else None,
            note=self._notes(studies) if "note" in used else None,
        )

    def _images(self, studies: Sequence[Study]) -> Tensor:
        blank = np.zeros((self.size, self.size), dtype=np.uint8)
        squares = [blank if s.image is None else fit_square(s.image, self.size) for s in studies]
        return normalise(np.stack(squares))

    def _tabular(self, studies: Sequence[Study]) -> Tensor:
        rows = [self.check(study) for study in studies]
        frame = pd.DataFrame(rows, columns=list(self.task.clinical_names))
        return torch.from_numpy(self.clinical.apply(frame))

    def _notes(self, studies: Sequence[Study]) -> Tensor:
        assert self.note_encoder is not None
        assert self.task.note is not None
        spec = self.task.note
        return torch.from_numpy(
            self.note_encoder.embed([mask_note(s.note or "", spec) for s in studies])
        )

    @torch.inference_mode()
    def embeddings(
        self, batch: Batch, films: NDArray[np.float32] | None = None
    ) -> dict[Modality, Tensor]:
        """Embeddings of a batch: image (B, Di), tabular (B, T), note (B, E).

        Args:
            batch: what `prepare` gave.
            films: (B, Di) of the films, where they have been made already.
        """
        if films is None:
            return self.classifier.embeddings(batch)
        made: dict[Modality, Tensor] = {"image": torch.from_numpy(films)}
        return {**made, **self.classifier.embeddings(replace(batch, image=None))}

    @torch.inference_mode()
    def film_embeddings(self, studies: Sequence[Study]) -> NDArray[np.float32]:
        """Embeddings (B, Di) of the films alone, of a blank one where a study has none."""
        images = self._images(studies)
        mask = torch.ones(len(images), len(MODALITIES), dtype=torch.bool)
        made = self.embeddings(Batch(mask=mask, image=images))
        return np.asarray(made["image"].numpy(), dtype=np.float32)

    def loggable(self, modality: Modality) -> int:
        """How much of an embedding, from its start, may be written down.

        Hashed words could be looked up in a dictionary, so of a note it is the meaning alone.
        """
        spec = self.fusion.spec
        return spec.parts["note"][0].length if modality == "note" else spec.dims[modality]

    def logits(self, embeddings: dict[Modality, Tensor], mask: Tensor) -> Tensor:
        """Embeddings and mask (B, 3) → calibrated logits (B, F)."""
        return self.classifier.logits(embeddings, mask)

    def probabilities(self, logits: Tensor) -> NDArray[np.float64]:
        """Calibrated logits (B, F) → probabilities (B, F)."""
        return link(logits.detach(), self.task.problem).numpy()

    @cached_property
    def prior(self) -> dict[str, float]:
        """Finding → probability that the model gives to nothing at all."""
        nothing = {m: torch.zeros(1, d) for m, d in self.fusion.spec.dims.items()}
        with torch.inference_mode():
            logits = self.logits(nothing, torch.zeros(1, len(MODALITIES), dtype=torch.bool))
        said = self.probabilities(logits)[0].tolist()
        return dict(zip(self.task.finding_names, said, strict=True))

    def operating_point(
        self, finding: str, modalities: Sequence[Modality], reason: Reason | None = None
    ) -> OperatingPoint | None:
        """The operating point of a subset, the one in use where no other is asked for; None for
        multiclass."""
        points = self.operating_points.get(subset_name(modalities), {}).get(finding)
        return None if points is None else points[reason or self.decision]

    def bounds(self, modalities: Sequence[Modality]) -> list[ConformalBounds]:
        """Conformal bounds of each finding for a subset."""
        found = self.conformal[subset_name(modalities)]
        return [found[name] for name in self.task.finding_names]
