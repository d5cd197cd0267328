"""Subject: one study under explanation, whose frozen parts are run once, so that any one modality
may be varied while the others are fixed at this study's values.

Only forward passes through the bundle's own modules, which nothing changes, so that several
several threads may use subjects at once.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from cxr_mm.core.errors import InputError
from cxr_mm.core.study import Study
from cxr_mm.core.types import MODALITIES, Modality
from cxr_mm.explain.attribution import Explanation, Target
from cxr_mm.imaging.geometry import content_box
from cxr_mm.inference.predictor import EncodedAnswer, nothing_usable
from cxr_mm.inference.shares import ModalityShares, named_shares
from cxr_mm.inference.shares import modality_shares as modality_shares_of
from cxr_mm.models.bundle import Bundle, Encoded
from cxr_mm.models.image_encoder import FeatureMaps

Logits = NDArray[np.float64]


class Subject:
    """A study as a bundle has encoded it.

    Args:
        bundle: the model.
        study: any subset of the modalities.
        encoded: the study, one row, where it has been encoded already.
        shares: its modality shares, where they are known.

    Raises:
        InputError: the study cannot be read, or has nothing that the task uses.
    """

    def __init__(
        self,
        bundle: Bundle,
        study: Study,
        encoded: Encoded | None = None,
        shares: ModalityShares | None = None,
    ) -> None:
        self.bundle, self.study = bundle, study
        self.encoded = bundle.encode([study]) if encoded is None else encoded
        self.batch, self.mask = self.encoded.batch, self.encoded.mask
        self.present = self.encoded.modalities()
        if not self.present:
            raise nothing_usable(study, bundle.task.modalities)
        self._shares = shares
        self.answers: dict[str, dict[bytes, Logits]] = {}
        """Logits (F,) that games have computed, by kind of game and coalition."""

    @classmethod
    def of(cls, bundle: Bundle, answer: EncodedAnswer) -> Self:
        """Explain what was answered, without encoding it again."""
        return cls(bundle, answer.study, answer.encoded, answer.modality_shares)

    @cached_property
    def shares(self) -> ModalityShares:
        """Shares of the modalities."""
        return self._shares or modality_shares_of(self.bundle, self.encoded)[0]

    def column(self, target: Target) -> int:
        """Column of the target among the logits.

        Raises:
            InputError: the task has no such finding.
        """
        task = self.bundle.task
        return task.finding_names.index(task.finding_name(target.finding))

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
        row: Logits = self.with_mask(self.mask)[0]
        return row

    @cached_property
    def image_box(self) -> tuple[slice, slice]:
        """Rows and columns of the square that hold image and no margin."""
        self.require("image")
        shape = self.encoded.shapes[0]
        assert shape is not None
        return content_box(shape, self.bundle.size)

    @cached_property
    def maps(self) -> FeatureMaps:
        """Feature maps that the embedding of the image is pooled from."""
        self.require("image")
        return self.encoded.maps or self.bundle.trace(self.batch)

    @property
    def note(self) -> str:
        """The note as the model reads it."""
        return self.encoded.notes[0]

    def with_mask(self, mask: Tensor) -> Logits:
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
        given = self.mask.expand(len(embeddings), -1) if mask is None else mask
        return self._joined({modality: encoded}, given)

    @torch.inference_mode()
    def _joined(self, varied: dict[Modality, Tensor], mask: Tensor) -> Logits:
        logits = self.bundle.fusion.join({**self.encoded.parts, **varied}, mask)
        found: Logits = logits.double().numpy()
        return found


def modality_shares(subject: Subject) -> dict[str, Explanation]:
    """Share of each modality in the logit and in the probability of every finding.

    Returns:
        Finding name → Explanation without attributions; `base + sum(shares) == logit` to 1e-5, and
        the like in probability.
    """
    shares, findings = subject.shares, subject.bundle.task.finding_names
    in_logits = named_shares(findings, shares.modalities, shares.logit_shares)
    in_probabilities = named_shares(findings, shares.modalities, shares.probability_shares)
    return {
        finding: Explanation(
            study_id=subject.study.study_id,
            target=Target(finding),
            base=float(shares.logit_base[f]),
            shares=in_logits[finding],
            logit=float(shares.logits[f]),
            base_probability=float(shares.probability_base[f]),
            probability_shares=in_probabilities[finding],
            probability=float(shares.probabilities[f]),
        )
        for f, finding in enumerate(findings)
    }
