"""torchvision beside a build of torch that it was not compiled for, made importable.

Its compiled operators then fail to load and the import stops at `operator torchvision::nms does
not exist`, which takes timm, grad-cam and transformers with it. Declaring the two operators that
are looked up at import is enough for everything used here; torchvision's own non-maximum
suppression, region pooling, deformable convolution and image decoding stay unavailable.
"""

import importlib
import sys
from typing import Literal

import torch

TorchvisionState = Literal["native", "schemas defined"]
SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
# A library takes its schemas along when it is collected, so this one lives as long as the process.
_declared: list[torch.library.Library] = []


def ensure_torchvision() -> TorchvisionState:
    """Import torchvision, declaring its missing operators first where it needs that.

    Safe to call any number of times; it changes nothing where torchvision imports by itself.

    Returns:
        `native` where torchvision works as it is, `schemas defined` where it had to be fixed.
    """
    if _declared:
        return "schemas defined"
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::" not in str(error):
            raise
        _declare_operators()
        _forget_half_loaded()
        importlib.import_module("torchvision")
        return "schemas defined"
    return "native"


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _forget_half_loaded() -> None:
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]
