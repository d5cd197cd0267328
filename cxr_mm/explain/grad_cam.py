"""Grad-CAM (Selvaraju et al. 2017) through pytorch-grad-cam: where the film speaks for a finding.

The network is differentiated as a function of the image alone, the other modalities held at this
study's values. Hooks go on a copy of the modules that shares the weights, so that predictions and
explanations in other threads run through the bundle's own modules undisturbed.
"""

import copy
from typing import Any

import numpy as np
import torch
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

from cxr_mm.contracts.explanation import Attribution, Target
from cxr_mm.contracts.study import Study
from cxr_mm.errors import InputError
from cxr_mm.models.bundle import Bundle
from cxr_mm.models.classifier import Batch

METHOD = "grad_cam"


class ImageOnly(nn.Module):
    """A multimodal classifier as a function of the image (1, 1, S, S), the rest held fixed."""

    def __init__(self, classifier: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.classifier, self.batch = classifier, batch

    def forward(self, image: Tensor) -> Tensor:
        """Image → logits (1, F)."""
        batch = self.batch
        logits: Tensor = self.classifier(image, batch.tabular, batch.note, batch.mask)
        return logits


def grad_cam(bundle: Bundle, study: Study, target: Target) -> Attribution:
    """Explain the logit of one finding by the regions of the film.

    Returns:
        Values float32 (S, S) in [0, 1] over the square that the model saw (`film.to_film` leads
        back to the film). `extra["empty"]` is True where no region speaks for the finding: then
        the values are all zero.

    Raises:
        InputError: the study has no image, or the task has no such finding.
    """
    output = finding_index(bundle, target)
    batch = bundle.prepare([study])
    if bundle.image_encoder is None or batch.image is None or not bool(batch.mask[0, 0]):
        raise InputError(
            "there is no film to explain", field="image", remedy="Give a radiograph with the study"
        )
    classifier, layer = _hookable(bundle)
    model = ImageOnly(classifier, batch)
    # Not as a context manager: that prints and swallows an IndexError.
    cam = GradCAM(model, [layer], reshape_transform=bundle.image_encoder.feature_map)
    try:
        with torch.enable_grad():
            raw = cam(batch.image, [ClassifierOutputTarget(output)])[0]
    finally:
        cam.activations_and_grads.release()
    values = np.clip(np.nan_to_num(raw), 0, 1).astype(np.float32)
    empty = not bool(values.max() > 0)
    return Attribution("image", METHOD, values, extra={"empty": empty})


def finding_index(bundle: Bundle, target: Target) -> int:
    """Column of the target among the logits.

    Raises:
        InputError: the task has no such finding.
    """
    names = bundle.task.finding_names
    if target.finding not in names:
        raise InputError(
            "no such finding", field=target.finding, remedy=f"This task has {', '.join(names)}"
        )
    return names.index(target.finding)


def _hookable(bundle: Bundle) -> tuple[nn.Module, nn.Module]:
    """A copy of the classifier on the same weights, and its feature layer as a place to start from.

    The layer's output becomes a leaf, so that the backward pass ends there and touches no weight.
    """
    original, encoder = bundle.classifier, bundle.image_encoder
    assert encoder is not None
    wanted = encoder.feature_layer()
    path = next(name for name, module in original.named_modules() if module is wanted)
    shared: dict[int, Any] = {
        id(p): nn.Parameter(p.detach(), requires_grad=False) for p in original.parameters()
    }
    shared |= {id(b): b for b in original.buffers()}
    twin = copy.deepcopy(original, shared).eval()
    layer = twin.get_submodule(path)
    layer.register_forward_hook(lambda _module, _inputs, output: output.detach().requires_grad_())
    return twin, layer
