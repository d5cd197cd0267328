"""torchvision beside a build of torch that it was not compiled for, made importable; and timm.

Its compiled operators then fail to load and the import stops at `operator torchvision::nms does
not exist`, which takes timm, grad-cam and transformers with it. Declaring the two operators that
are looked up at import is enough for everything used here; torchvision's own non-maximum
suppression, region pooling, deformable convolution and image decoding stay unavailable.
"""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Literal

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
    with without_compiler():
        try:
            importlib.import_module("torchvision")
        except RuntimeError as error:
            if "torchvision::" not in str(error):
                raise
            _declare_operators()
            _forget_half_loaded()
            importlib.import_module("torchvision")
        importlib.import_module("timm")
    return "schemas defined" if _declared else "native"


@contextmanager
def without_compiler() -> Iterator[None]:
    """Import torchvision and timm without torch's compiler, which costs a second of every start.

    `torchvision.ops.roi_align` imports one function of `torch._dynamo`, which region pooling asks
    and nothing here does; a stand-in imports the compiler when it is called. timm keeps the
    compiler off parts of two transformers (`torch.compiler.disable`); nothing here is compiled.
    """
    if "torch._dynamo" in sys.modules:
        yield
        return
    package, utils = ModuleType("torch._dynamo"), ModuleType("torch._dynamo.utils")
    utils.is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    disable = torch.compiler.disable
    sys.modules |= {package.__name__: package, utils.__name__: utils}
    torch.compiler.disable = _unchanged  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compiler.disable = disable
        for stand_in in (package, utils):
            if sys.modules.get(stand_in.__name__) is stand_in:
                del sys.modules[stand_in.__name__]


def _unchanged(function: Any = None, **_: Any) -> Any:
    return function if function is not None else _unchanged


def _is_compile_supported(device_type: str) -> bool:
    compiler = importlib.import_module("torch._dynamo.utils")
    return bool(compiler.is_compile_supported(device_type))


def _declare_operators() -> None:
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in SCHEMAS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _declared.append(library)


def _forget_half_loaded() -> None:
    for module in [m for m in sys.modules if m == "torchvision" or m.startswith("torchvision.")]:
        del sys.modules[module]


# timm, transformers, lightning and grad-cam all import torchvision; it has to be whole before.
ensure_torchvision()
import timm as timm  # noqa: E402
