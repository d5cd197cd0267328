"""Backbones: any timm model (Wightman 2019) or the small CNN, headless and for grey images."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from cxr_mm.data.transform import MEAN, STD
from cxr_mm.errors import ParamsError, WeightsError
from cxr_mm.models.small_cnn import SmallCnn
from cxr_mm.models.weights import SMALL_CNN, check_backbone, file_state, packaged_state

STAGES = 3
"""Last stages that are looked at; timm's maps of stride 8, 16 and 32 in most networks."""
SIZE_REMEDY = "Choose another ingest.size (a multiple of 32) or another backbone"


def bare_backbone(name: str, size: int) -> nn.Module:
    """The network without pretrained weights, without a head, for grey images of this size.

    Raises:
        WeightsError: the name is unknown.
        ParamsError: it cannot be built for this size.
    """
    check_backbone(name)
    if name == SMALL_CNN:
        return without_inplace(SmallCnn())
    return without_inplace(_timm_model(name, size))


def pretrained_backbone(name: str, size: int, weights: str) -> nn.Module:
    """The network with weights from `packaged`, `hub`, a safetensors file, or `none`.

    Raises:
        WeightsError: the name is unknown, or its weights cannot be had or do not fit.
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
    """Means of the two feature maps before the last stage, and what the backbone pools itself.

    Args:
        backbone: a timm model (or the small CNN) without head.
        images: (B, 1, S, S) as the backbone expects them.
        taps: modules that the finer maps are sent through, one for each; or none.

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
    """Lengths of the embedding's parts, found by running one empty image through.

    Raises:
        ParamsError: the network does not take images of this size, does not pool, or has no
            stages to show.
    """
    was_training = backbone.training
    images = torch.zeros(1, 1, size, size)
    try:
        with torch.inference_mode():
            backbone.eval()
            parts = pooled_stages(backbone, images) if stages else [backbone(images)]
    except AttributeError as error:
        raise ParamsError(
            f"{name} does not show its stages",
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
    """Name of the module whose output is the last spatial feature map.

    For a convolutional network it is the outermost module that gives what global pooling takes;
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
    found: list[str] = [name for name, output in outputs if output is features]
    return min(found or [outputs[-1][0]], key=lambda name: name.count("."))


def _last_map(backbone: Any, images: Tensor) -> Tensor:
    """The last feature map, by the modules that run whether stages are pooled or not."""
    features: Tensor
    if hasattr(backbone, "forward_intermediates"):
        features, _ = backbone.forward_intermediates(images, indices=STAGES)
    else:
        features = backbone.forward_features(images)
    return features


def without_inplace(module: nn.Module) -> nn.Module:
    """Let no activation overwrite its input, which hooks of shap and grad-cam need kept."""
    for part in module.modules():
        if getattr(part, "inplace", False) is True:
            setattr(part, "inplace", False)  # noqa: B010 (unknown to nn.Module's types)
    return module


def _timm_model(name: str, size: int, **arguments: Any) -> nn.Module:
    """A timm model; pretrained where `arguments` say from what."""
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
            f"the pretrained weights of {name} cannot be had from the hub ({_first_line(error)})",
            field="train_image.weights",
            remedy="Check the network (HF_ENDPOINT names a mirror), or download the model's"
            " safetensors file elsewhere and give its path, or use packaged or none",
        ) from error


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
