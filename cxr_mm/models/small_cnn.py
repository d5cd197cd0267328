"""Small residual network trained from scratch on grey images, after He et al. 2016 (ResNet).

About 0.9 million parameters; the last stage keeps its resolution (14 x 14 at 224 px), so that
Grad-CAM shows more than a blur. Every activation is its own module and none works in place, which
shap's and grad-cam's hooks need.
"""

from typing import Any

from torch import Tensor, nn

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
