"""Subject: one study under explanation, whose frozen parts are run once, so that any one modality
may be varied while the others are held at this study's values.

Only forward passes through the bundle's own modules, which nothing changes, so that several
subjects may be asked from several threads.
"""

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.data.notes import mask_note
from cxr_mm.explain.attribution import Explanation, Target
from cxr_mm.imaging.geometry import content_box
from cxr_mm.inference.predictor import coalitions, shapley
from cxr_mm.models.bundle import Bundle

Logits = NDArray[np.float64]


class Subject:
    """A study, and what the bundle has made of it.

    Args:
        bundle: the model.
        study: any subset of the modalities.
        image_embedding: (Di,) of the image, where it has been made already.

    Raises:
        InputError: the study cannot be read, or has nothing that the task uses.
    """

    def __init__(
        self,
        bundle: Bundle,
        study: Study,
        image_embedding: NDArray[np.float32] | None = None,
    ) -> None:
        self.bundle, self.study = bundle, study
        self.batch = bundle.prepare([study])
        self.mask = self.batch.mask
        self.present: tuple[Modality, ...] = tuple(
            m for m, there in zip(MODALITIES, self.mask[0].tolist(), strict=True) if there
        )
        if not self.present:
            used = ", ".join(bundle.task.modalities)
            raise InputError(
                "there is nothing in it that this model can use",
                field=f"study {study.study_id}",
                remedy=f"Give at least one of {used}",
            )
        self.answers: dict[str, dict[bytes, Logits]] = {}
        """What games have asked: kind of game → coalition → logits (F,)."""
        with torch.inference_mode():
            images = None if image_embedding is None else image_embedding[None]
            embeddings = bundle.embeddings(self.batch, images)
            self._encoded = {m: bundle.fusion.encode(m, e) for m, e in embeddings.items()}

    def column(self, target: Target) -> int:
        """Column of the target among the logits.

        Raises:
            InputError: the task has no such finding.
        """
        names = self.bundle.task.finding_names
        if target.finding not in names:
            raise InputError(
                "no such finding", field=target.finding, remedy=f"This task has {', '.join(names)}"
            )
        return names.index(target.finding)

    def require(self, modality: Modality) -> None:
        """See that the study has a modality.

        Raises:
            InputError: it has not.
        """
        if modality not in self.present:
            raise InputError(
                f"there is no {modality} in this study to explain",
                field=modality,
                remedy=f"Give it with the study; there is {', '.join(self.present)}",
            )

    @cached_property
    def logits(self) -> Logits:
        """Calibrated logits (F,) of the study as it is."""
        row: Logits = self.shown(self.mask)[0]
        return row

    @cached_property
    def image_box(self) -> tuple[slice, slice]:
        """Rows and columns of the square that hold image and no margin."""
        self.require("image")
        assert self.study.image is not None
        height, width = self.study.image.shape
        return content_box((height, width), self.bundle.size)

    @cached_property
    def note(self) -> str:
        """The note as the model reads it."""
        spec = self.bundle.task.note
        assert spec is not None
        return mask_note(self.study.note or "", spec)

    def shown(self, mask: Tensor) -> Logits:
        """Logits (K, F) of the study with some modalities hidden: mask (K, 3)."""
        return self._joined({}, mask)

    @torch.inference_mode()
    def of_images(self, images: Tensor) -> Logits:
        """Logits (K, F) with other images (K, 1, S, S), in the precision that is faster here."""
        encoder, precision = self.bundle.image_encoder, self.bundle.quick
        assert encoder is not None
        with precision.autocast():
            embeddings = encoder(precision.arrange(images))
        return self._varied("image", embeddings.float())

    @torch.inference_mode()
    def of_clinical(self, vectors: Tensor) -> Logits:
        """Logits (K, F) with other clinical vectors (K, T), whether or not the study has one."""
        mask = self.mask.repeat(len(vectors), 1)
        mask[:, MODALITIES.index("tabular")] = True
        return self._varied("tabular", vectors, mask)

    @torch.inference_mode()
    def of_notes(self, notes: Sequence[str]) -> Logits:
        """Logits (K, F) with other notes, already masked; an empty one is an absent one."""
        encoder = self.bundle.note_encoder
        assert encoder is not None
        mask = self.mask.repeat(len(notes), 1)
        mask[:, MODALITIES.index("note")] = torch.tensor([bool(note.strip()) for note in notes])
        return self._varied("note", torch.from_numpy(encoder.embed(notes)), mask)

    def _varied(self, modality: Modality, embeddings: Tensor, mask: Tensor | None = None) -> Logits:
        encoded = self.bundle.fusion.encode(modality, embeddings)
        shown = self.mask.expand(len(embeddings), -1) if mask is None else mask
        return self._joined({modality: encoded}, shown)

    @torch.inference_mode()
    def _joined(self, varied: dict[Modality, Tensor], mask: Tensor) -> Logits:
        logits = self.bundle.fusion.join({**self._encoded, **varied}, mask)
        found: Logits = logits.double().numpy()
        return found


def modality_shares(subject: Subject) -> dict[str, Explanation]:
    """Share of each modality in the logit and in the probability of every finding.

    Returns:
        Finding name → Explanation without attributions; `base + sum(shares) == logit` to 1e-5, and
        the like in probability.
    """
    present = [MODALITIES.index(modality) for modality in subject.present]
    subsets = coalitions(len(present))
    mask = torch.zeros(len(subsets), len(MODALITIES), dtype=torch.bool)
    mask[:, present] = torch.from_numpy(subsets)
    logits = subject.shown(mask)
    chances = subject.bundle.probabilities(torch.from_numpy(logits))
    in_logits, in_chances = shapley(logits), shapley(chances)
    return {
        finding: Explanation(
            study_id=subject.study.study_id,
            target=Target(finding),
            base=float(logits[0, f]),
            shares=_named(subject, in_logits[:, f]),
            logit=float(logits[-1, f]),
            base_probability=float(chances[0, f]),
            probability_shares=_named(subject, in_chances[:, f]),
            probability=float(chances[-1, f]),
        )
        for f, finding in enumerate(subject.bundle.task.finding_names)
    }


def _named(subject: Subject, shares: NDArray[np.float64]) -> dict[Modality, float]:
    return {m: float(share) for m, share in zip(subject.present, shares, strict=True)}
