"""Class activation maps through pytorch-grad-cam: Grad-CAM (Selvaraju et al. 2017), Grad-CAM++
(Chattopadhay et al. 2018), Layer-CAM (Jiang et al. 2021), Eigen-CAM (Muhammad and Yeasin 2020).

Where the embedding is taken from several stages, so is the map: each stage's own map in logits,
one on top of the other. Under Grad-CAM and a linear head they add up to what the image gives the
logit. The network is differentiated as a function of the image alone, the other modalities fixed at
this study's values. Hooks go on a copy of the modules that shares the weights, so that predictions
and explanations in other threads run through the bundle's own modules undisturbed.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.subject import Subject
from cxr_mm.models.bundle import Batch, Bundle

CamName = Literal["grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam"]
WEIGHED: dict[CamName, str] = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "eigen_cam": "EigenCAM",
}
"""Names in pytorch_grad_cam, which is imported with the first map."""


class ImageOnly(nn.Module):
    """A multimodal classifier as a function of the image (1, 1, S, S), the rest fixed."""

    def __init__(self, classifier: nn.Module, batch: Batch) -> None:
        super().__init__()
        self.classifier, self.batch = classifier, batch

    def forward(self, image: Tensor) -> Tensor:
        """Image → logits (1, F)."""
        batch = self.batch
        logits: Tensor = self.classifier(image, batch.tabular, batch.note, batch.mask)
        return logits


def cam(subject: Subject, target: Target, method: CamName = "grad_cam") -> Attribution:
    """Explain the logit of one finding by the regions of the image.

    Returns:
        Values float32 (S, S) in [0, 1] over the model's square (`imaging.geometry.to_image` maps
        them back to the image). `extra["empty"]` is True where no region speaks for the finding:
        then the values are all zero.

    Raises:
        InputError: the study has no image, or the task has no such finding.
    """
    subject.require("image")
    raw = logit_map(subject, target, method)
    values = np.clip(np.nan_to_num(raw), 0, None)
    highest = float(values.max())
    scaled = (values / highest if highest > 0 else values).astype(np.float32)
    return Attribution("image", method, scaled, extra={"empty": not highest > 0})


def logit_map(
    subject: Subject, target: Target, method: CamName = "grad_cam"
) -> NDArray[np.float64]:
    """The map (S, S) before negative evidence is cut and the highest value made 1.

    Of Grad-CAM under a linear head its sum is what the embedding adds to the logit.
    """
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    output = subject.column(target)
    bundle, image = subject.bundle, subject.batch.image
    assert bundle.image_encoder is not None
    assert image is not None
    twin, layers = _hookable(bundle, stages=method != "eigen_cam")
    model = ImageOnly(twin, subject.batch)
    # Not as a context manager: that prints and swallows an IndexError.
    explainer: Any = getattr(pytorch_grad_cam, WEIGHED[method])(
        model, layers, reshape_transform=bundle.image_encoder.feature_map
    )
    explainer.compute_cam_per_layer = lambda images, _targets, _smooth: _maps(explainer, images)
    explainer.aggregate_multi_layers = sum
    try:
        with torch.enable_grad():
            found: NDArray[np.float64] = explainer(image, [ClassifierOutputTarget(output)])
    finally:
        explainer.activations_and_grads.release()
    # `feature_map` takes the mean over image and mirror image of gradients too, which add up.
    return found * 2 if bundle.image_encoder.spec.mirror else found


def _maps(explainer: Any, images: Tensor) -> list[NDArray[np.float64]]:
    """Map (S, S) of each layer, resized to the images without changing its sum."""
    stored = explainer.activations_and_grads
    found = []
    pairs = zip(stored.activations, stored.gradients or stored.activations, strict=True)
    for layer, (activations, gradients) in zip(explainer.target_layers, pairs, strict=True):
        own = explainer.get_cam_image(
            images, layer, [], activations.detach().numpy(), gradients.detach().numpy(), False
        )
        found.append(_spread(torch.from_numpy(own)[:, None].double(), images.shape[-1]))
    return found


def _spread(small: Tensor, size: int) -> NDArray[np.float64]:
    """A map (1, 1, h, w) → (S, S) of the same sum."""
    large = nn.functional.interpolate(
        small, size=(size, size), mode="bilinear", align_corners=False
    )
    cells = small.shape[-2] * small.shape[-1]
    values: NDArray[np.float64] = large[0, 0].numpy() * (cells / size**2)
    return values


def _hookable(bundle: Bundle, *, stages: bool) -> tuple[nn.Module, list[nn.Module]]:
    """A copy of the classifier on the same weights, and its feature layers as leaves.

    The backward pass ends at the layers' outputs, computes no gradient of a weight, and gives for
    each layer only what it adds to the embedding itself.
    """
    original, encoder = bundle.classifier, bundle.image_encoder
    assert encoder is not None
    wanted = encoder.feature_layers() if stages else encoder.feature_layers()[:1]
    twins: dict[int, nn.Module] = {}
    twin = _twin(original, twins)
    return twin, _leaves([twins[id(module)] for module in wanted])


def _twin(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """A module with the same weights, which need no gradient, and hooks of its own.

    A deep copy with shared weights takes longer than the forward pass.
    """
    if id(module) not in twins:
        twin = twins[id(module)] = copy.copy(module)
        for hooks in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks"):
            twin.__dict__[hooks] = OrderedDict()
        twin.__dict__["_parameters"] = {
            name: None if own is None else nn.Parameter(own.detach(), requires_grad=False)
            for name, own in module._parameters.items()
        }
        twin.__dict__["_modules"] = {
            name: None if own is None else _twin(own, twins)
            for name, own in module._modules.items()
        }
    return twins[id(module)]


def _leaves(layers: Sequence[nn.Module]) -> list[nn.Module]:
    for layer in layers:
        layer.register_forward_hook(
            lambda _module, _given, output: output.detach().requires_grad_()
        )
    return list(layers)
