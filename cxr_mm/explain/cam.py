"""Class activation maps through pytorch-grad-cam: Grad-CAM (Selvaraju et al. 2017), Grad-CAM++
(Chattopadhay et al. 2018), Layer-CAM (Jiang et al. 2021), Eigen-CAM (Muhammad and Yeasin 2020).

Where the embedding is taken from several stages, so is the map: each stage's own map in logits,
one on top of the other. Under Grad-CAM and a linear head they add up to what the image gives the
logit. The network is differentiated as a function of the image alone, the other modalities fixed at
this study's values.
"""

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from cxr_mm.explain.attribution import Attribution, Target
from cxr_mm.explain.subject import Subject

CamName = Literal["grad_cam", "grad_cam_plus_plus", "layer_cam", "eigen_cam"]
WEIGHED: dict[CamName, str] = {
    "grad_cam": "GradCAM",
    "grad_cam_plus_plus": "GradCAMPlusPlus",
    "layer_cam": "LayerCAM",
    "eigen_cam": "EigenCAM",
}
"""Names in pytorch_grad_cam, which is imported with the first map."""


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

    maps, encoder, size = subject.maps, subject.bundle.image_encoder, subject.bundle.size
    assert encoder is not None
    # It wants a module with weights, which it runs only to find maps and gradients: here they are.
    weighed: Any = getattr(pytorch_grad_cam, WEIGHED[method])(encoder.head, [])
    # Eigen-CAM is of the last stage alone, and takes no gradient.
    slopes = maps.maps[:1] if method == "eigen_cam" else _slopes(subject, target)
    found = np.zeros((size, size))
    for own in zip(maps.maps, slopes, strict=False):
        features, slope = (encoder.feature_map(maps.of_row(each)).numpy() for each in own)
        small = weighed.get_cam_image(None, None, [], features, slope, False)
        found += _spread(torch.from_numpy(small)[:, None].double(), size)
    # `feature_map` takes the mean over image and mirror image of gradients too, which add up.
    return found * 2 if encoder.spec.mirror else found


def _slopes(subject: Subject, target: Target) -> tuple[Tensor, ...]:
    """Gradient of one logit in each feature map, of the whole batch."""
    bundle, maps = subject.bundle, subject.maps
    others = bundle.classifier.embeddings(replace(subject.batch, image=None))
    with torch.enable_grad():
        image = maps.embeddings[maps.row : maps.row + 1]
        logits = bundle.logits({**others, "image": image}, subject.mask)
    logit = logits[0, subject.column(target)]
    return torch.autograd.grad(logit, maps.maps, retain_graph=True)


def _spread(small: Tensor, size: int) -> NDArray[np.float64]:
    """A map (1, 1, h, w) → (S, S) of the same sum."""
    large = nn.functional.interpolate(
        small, size=(size, size), mode="bilinear", align_corners=False
    )
    cells = small.shape[-2] * small.shape[-1]
    values: NDArray[np.float64] = large[0, 0].numpy() * (cells / size**2)
    return values
