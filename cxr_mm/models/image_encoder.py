"""Image encoder: radiograph → embedding → logits.

An embedding is the last pooled features (`last`), or these after the means of the two stages before
(`stages`): finer maps retain texture and position of a finding, and pretraining on photographs has
specialised them less (hypercolumns: Hariharan et al. 2015). The classification head is one linear
layer, with which the encoder is trained; a frozen encoder does not use it.
"""

import copy
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from cxr_mm.core.errors import WeightsError
from cxr_mm.core.files import read_json, save_tensors, write_json
from cxr_mm.core.types import Frozen
from cxr_mm.imaging.tensors import MEAN, STD
from cxr_mm.models.backbones import (
    bare_backbone,
    embedding_lengths,
    find_feature_layer,
    grey_statistics,
    pooled_stages,
    pretrained_backbone,
)

WEIGHTS_FILE = "encoder.safetensors"
SPEC_FILE = "encoder.json"
Pool = Literal["last", "stages"]


class ImageEncoderSpec(Frozen):
    """Specification of an image encoder."""

    backbone: str
    """A timm name, or `small_cnn`."""
    size: int = Field(ge=16, le=2048)
    """Side of the square image in pixels."""
    pool: Pool
    """Source of the embedding."""
    parts: tuple[int, ...] = Field(min_length=1)
    """Lengths of the embedding's parts, one for each map it is pooled from."""
    mirror: bool
    """Whether the embedding is the mean of those of the image and its mirror image."""
    outputs: int = Field(ge=1)
    """Number of findings."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Between embedding and head, in training only."""
    resolution: int | None = Field(None, ge=16)
    """Pixels a side of which all detail is taken; None for that of the image."""

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return sum(self.parts)


class ImageEncoder(nn.Module):
    """Backbone with global pooling, and a linear head.

    Images are those of `imaging.tensor.normalise`: float32 (B, 1, S, S) in [-1, 1]. They are
    brought to the mean and standard deviation that the backbone's pretrained weights expect.
    """

    input_scale: Tensor
    input_shift: Tensor

    def __init__(self, spec: ImageEncoderSpec, backbone: nn.Module) -> None:
        super().__init__()
        self.spec = spec
        self.backbone = backbone
        # Parts differ in scale; without it the head would learn the largest first.
        self.norm = nn.BatchNorm1d(spec.dim, affine=False)
        self.dropout = nn.Dropout(spec.dropout)
        self.head = nn.Linear(spec.dim, spec.outputs)
        mean, std = grey_statistics(backbone)
        self.register_buffer("input_scale", torch.tensor(STD / std))
        self.register_buffer("input_shift", torch.tensor((MEAN - mean) / std))
        # The finer maps pass through these, so that hooks can see them.
        self.taps = nn.ModuleList(nn.Identity() for _ in spec.parts[:-1])
        self._feature_layer = ""

    @property
    def dim(self) -> int:
        """Length of the embedding."""
        return self.spec.dim

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 1, S, S) → embedding (B, dim)."""
        if not self._mirrors:
            return self._embed(images)
        both = self._embed(torch.cat([images, images.flip(-1)]))
        halves = both.reshape(2, -1, both.shape[1])  # of a size that an export can leave open
        return (halves[0] + halves[1]) / 2

    @property
    def _mirrors(self) -> bool:
        return self.spec.mirror and not self.training

    def _embed(self, images: Tensor) -> Tensor:
        if self.spec.resolution is not None:
            images = common_resolution(images, self.spec.resolution)
        given = images * self.input_scale + self.input_shift
        if self.spec.pool == "stages":
            return torch.cat(pooled_stages(self.backbone, given, list(self.taps)), dim=1)
        embedding: Tensor = self.backbone(given)
        return embedding

    def logits(self, embedding: Tensor) -> Tensor:
        """Embedding (B, dim) → logits (B, outputs)."""
        logits: Tensor = self.head(self.dropout(self.norm(embedding)))
        return logits

    @torch.no_grad()
    def linear_head(self) -> tuple[Tensor, Tensor]:
        """Weights (outputs, dim) and bias (outputs,) from embedding to logits, norm included."""
        assert self.norm.running_mean is not None
        assert self.norm.running_var is not None
        weight = self.head.weight / (self.norm.running_var + self.norm.eps).sqrt()
        return weight, self.head.bias - weight @ self.norm.running_mean

    def feature_layer(self) -> nn.Module:
        """Module whose output is the last spatial feature map, as Grad-CAM needs it.

        For a convolutional backbone it is the input of global pooling. For a transformer it is the
        first norm of the last block: after that block only the class token may have a gradient.
        `feature_map` turns either's output into (B, C, h, w).
        """
        if not self._feature_layer:
            self._feature_layer = find_feature_layer(self.backbone, self.spec.size)
        return self.backbone.get_submodule(self._feature_layer)

    def feature_layers(self) -> list[nn.Module]:
        """Modules whose outputs are the maps that the embedding is pooled from: that of the last
        map, then those of the finer ones, finest first, which is the order they run in."""
        return [self.feature_layer(), *self.taps]

    def feature_map(self, features: Tensor) -> Tensor:
        """Output, or its gradient, of a feature layer → (B, C, h, w), mirrored images turned back.

        Takes (B, C, h, w), tokens (B, prefix + h * w, C) and channels-last (B, h, w, C), of twice
        as many images where the encoder mirrors.
        """
        features = self._as_map(features)
        if not self._mirrors:
            return features
        plain, mirrored = features.chunk(2)
        return (plain + mirrored.flip(-1)) / 2

    def _as_map(self, features: Tensor) -> Tensor:
        if features.ndim == 3:
            tokens = features[:, int(getattr(self.backbone, "num_prefix_tokens", 0)) :]
            side = round(tokens.shape[1] ** 0.5)
            return tokens.transpose(1, 2).reshape(len(tokens), -1, side, side)
        width = getattr(self.feature_layer(), "normalized_shape", (None,))[0]
        if features.shape[-1] == width and features.shape[1] != width:
            features = features.movedim(-1, 1)
        return features


@dataclass(frozen=True)
class FeatureMaps:
    """What an embedding was pooled from, for a class activation map without another forward pass.

    Args:
        maps: output of each of `ImageEncoder.feature_layers`, in their order, of a whole batch.
        embeddings: of the batch (B, dim), differentiable in the maps and in nothing else.
        row: which of the batch is meant.
    """

    maps: tuple[Tensor, ...]
    embeddings: Tensor
    row: int = 0

    def of_row(self, batch: Tensor) -> Tensor:
        """What a map of the batch, or its gradient, holds of the row, its mirror image included."""
        return batch.detach()[self.row :: len(self.embeddings)]


class FeatureTracer:
    """Embeds images as an encoder does, and keeps their feature maps; safe for threads.

    Hooks are on a copy of its modules that shares the weights, so that the encoder itself stays as
    it is. What comes before the maps is run without a graph.

    Args:
        encoder: in evaluation mode, its weights laid out as they are served.
    """

    def __init__(self, encoder: ImageEncoder) -> None:
        twins: dict[int, nn.Module] = {}
        self._encoder, self._seen = _twin(encoder, twins), threading.local()
        layers = [twins[id(layer)] for layer in encoder.feature_layers()]
        self._number = len(layers)
        for number, layer in enumerate(layers):
            layer.register_forward_hook(self._keeping(number))

    def __call__(self, images: Tensor) -> FeatureMaps:
        """Embed images (B, 1, S, S)."""
        self._seen.maps = {}
        with torch.inference_mode(mode=False), torch.enable_grad():
            embeddings = self._encoder(images)
        maps = self._seen.__dict__.pop("maps")
        return FeatureMaps(tuple(maps[number] for number in range(self._number)), embeddings)

    def _keeping(self, number: int) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        """A hook that makes the output of a layer the start of the graph, and keeps it."""

        def keep(_module: nn.Module, _given: Any, output: Tensor) -> Tensor:
            leaf = self._seen.maps[number] = output.detach().requires_grad_()
            return leaf

        return keep


def _twin(module: nn.Module, twins: dict[int, nn.Module]) -> nn.Module:
    """A module with the same weights, which need no gradient, and hooks of its own.

    A deep copy with shared weights takes longer than a forward pass.
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


def common_resolution(images: Tensor, side: int) -> Tensor:
    """Shrink images (B, 1, S, S) to `side` pixels and enlarge them again.

    Files stored large and small look alike then.
    """
    size = images.shape[-2:]
    # Antialiasing has no bf16 kernel.
    small = F.interpolate(images.float(), (side, side), mode="bilinear", antialias=True)
    return F.interpolate(small, size, mode="bilinear").to(images.dtype)


def build_image_encoder(
    backbone: str,
    size: int,
    outputs: int,
    dropout: float = 0.0,
    weights: str = "packaged",
    pool: Pool = "last",
    *,
    mirror: bool = False,
    resolution: int | None = None,
) -> ImageEncoder:
    """Build an image encoder for training.

    Args:
        backbone: a timm name, or `small_cnn`.
        size: side of the square image in pixels.
        outputs: number of findings.
        dropout: between embedding and head.
        weights: `packaged`, `hub`, `none`, or the path of a safetensors file.
        pool: source of the embedding.
        mirror: whether it is the mean over the image and its mirror image.
        resolution: pixels a side that every image is brought to first; None for none.

    Raises:
        WeightsError: the backbone is unknown, or its weights are unavailable or do not fit.
        ParamsError: the backbone cannot take images of this size, or gives no maps of its stages.
    """
    network = pretrained_backbone(backbone, size, weights)
    spec = ImageEncoderSpec(
        backbone=backbone,
        size=size,
        pool=pool,
        parts=embedding_lengths(network, backbone, size, stages=pool == "stages"),
        mirror=mirror,
        outputs=outputs,
        dropout=dropout,
        resolution=resolution,
    )
    return ImageEncoder(spec, network)


def read_spec(folder: Path) -> ImageEncoderSpec:
    """Read the specification of a saved image encoder.

    Raises:
        WeightsError: the file is missing or damaged.
    """
    try:
        return ImageEncoderSpec.model_validate(read_json(folder / SPEC_FILE))
    except (OSError, ValueError) as error:
        raise WeightsError(
            f"no image encoder can be read from it ({next(iter(str(error).splitlines()), '')})",
            field=str(folder),
            remedy="Run train_image again",
        ) from error


def save_image_encoder(encoder: ImageEncoder, folder: Path) -> None:
    """Write weights (safetensors) and specification (JSON) into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {n: t.detach().cpu().numpy() for n, t in encoder.state_dict().items()}
    save_tensors(folder / WEIGHTS_FILE, state)
    write_json(folder / SPEC_FILE, encoder.spec.model_dump())


def load_image_encoder(folder: Path) -> ImageEncoder:
    """Load an image encoder, equal to the bit, in evaluation mode, without network access.

    Raises:
        WeightsError: a file is missing or damaged, or weights and specification do not agree.
    """
    try:
        spec = read_spec(folder)
        encoder = ImageEncoder(spec, bare_backbone(spec.backbone, spec.size))
        # The very pages of the file, which processes that serve the same bundle share.
        encoder.load_state_dict(load_file(folder / WEIGHTS_FILE), assign=True)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"no image encoder can be read from it ({next(iter(str(error).splitlines()), '')})",
            field=str(folder),
            remedy="Run train_image again",
        ) from error
    return encoder.eval()
