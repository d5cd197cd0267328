"""Classifier: image, clinical vector and note embedding → calibrated logits, end to end."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from cxr_mm.contracts.modality import Modality
from cxr_mm.models.fusion import Fusion
from cxr_mm.models.image_encoder import ImageEncoder
from cxr_mm.models.precision import Precision

SERVED = Precision("fp32")
"""How a bundle is run: not measured, so that starting costs nothing and answers do not vary."""


@dataclass(frozen=True)
class Batch:
    """What the classifier reads.

    Args:
        mask: bool (B, 3) in canonical order.
        image: (B, 1, S, S) in [-1, 1], or None where the task has no image.
        tabular: (B, T), or None.
        note: note embeddings (B, E), or None.

    Rows of absent modalities hold anything.
    """

    mask: Tensor
    image: Tensor | None = None
    tabular: Tensor | None = None
    note: Tensor | None = None


class Classifier(nn.Module):
    """Image encoder and fusion as one differentiable function, run as `SERVED` says."""

    def __init__(self, image_encoder: ImageEncoder | None, fusion: Fusion) -> None:
        super().__init__()
        self.image_encoder, self.fusion = image_encoder, fusion
        if image_encoder is not None:
            # Weights laid out anew within inference mode could take no part in a gradient.
            with torch.inference_mode(mode=False):
                image_encoder.to(memory_format=SERVED.memory_format)  # type: ignore[call-overload]

    def embeddings(self, batch: Batch) -> dict[Modality, Tensor]:
        """What the fusion reads of each modality of the task."""
        found: dict[Modality, Tensor] = {}
        if batch.image is not None and self.image_encoder is not None:
            found["image"] = self.image_encoder(SERVED.arrange(batch.image))
        if batch.tabular is not None:
            found["tabular"] = batch.tabular
        if batch.note is not None:
            found["note"] = batch.note
        return found

    def logits(self, embeddings: Mapping[Modality, Tensor], mask: Tensor) -> Tensor:
        """Embeddings and mask (B, 3) → calibrated logits (B, F)."""
        logits: Tensor = self.fusion(embeddings, mask)
        return logits

    def forward(
        self, image: Tensor | None, tabular: Tensor | None, note: Tensor | None, mask: Tensor
    ) -> Tensor:
        """Calibrated logits (B, F); differentiable in every input."""
        batch = Batch(mask=mask, image=image, tabular=tabular, note=note)
        return self.logits(self.embeddings(batch), mask)
