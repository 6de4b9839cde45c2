"""The ResNets that He et al. built for CIFAR-10: three groups of thin blocks, with shortcuts that own no parameters."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from frostline.nn.backbone import CLASSIFIERS, ImageInput

_IMAGENET = ImageInput(size=32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))


@dataclass(frozen=True, kw_only=True)
class CifarResNet:
    """A residual network for 32x32 images (He et al. 2016, arXiv:1512.03385, section 4.2).

    Attributes:
        depth: Layers that own weights on the longest path, 6n + 2 for n blocks a group.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    depth: Literal[20, 32, 44, 56, 110] = 20

    @property
    def input(self) -> ImageInput:
        """32x32, normalised as ImageNet is: what the public weights were trained with."""
        return _IMAGENET

    def brings_head(self, num_classes: int) -> bool:
        """Return False: the recipe has no weights of its own."""
        return False

    def network(self, num_classes: int) -> nn.Module:
        """Build the network with new weights: images (B, 3, H, W) -> logits (B, num_classes)."""
        return _ResNet(blocks=(self.depth - 2) // 6, num_classes=num_classes)


class _ResNet(nn.Module):
    def __init__(self, *, blocks: int, num_classes: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(3, 16, stride=1)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = _group(16, 16, blocks=blocks, stride=1)
        self.layer2 = _group(16, 32, blocks=blocks, stride=2)
        self.layer3 = _group(32, 64, blocks=blocks, stride=2)
        self.linear = nn.Linear(64, num_classes)
        self.apply(_initialise)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, num_classes)."""
        maps = F.relu(self.bn1(self.conv1(images)))
        maps = self.layer3(self.layer2(self.layer1(maps)))
        logits: Tensor = self.linear(maps.mean(dim=(2, 3)))
        return logits


class _Block(nn.Module):
    """Two 3x3 convolutions beside a shortcut of kind A: every stride-th pixel, new channels zero."""

    def __init__(self, channels_in: int, channels: int, *, stride: int) -> None:
        super().__init__()
        self.conv1 = _conv3x3(channels_in, channels, stride=stride)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = _conv3x3(channels, channels, stride=1)
        self.bn2 = nn.BatchNorm2d(channels)
        self.stride = stride
        self.padding = (channels - channels_in) // 2

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, C, H / stride, W / stride)."""
        residual = F.relu(self.bn1(self.conv1(maps)))
        residual = self.bn2(self.conv2(residual))
        return F.relu(residual + self._shortcut(maps))

    def _shortcut(self, maps: Tensor) -> Tensor:
        strided = maps[:, :, :: self.stride, :: self.stride]
        return F.pad(strided, (0, 0, 0, 0, self.padding, self.padding))


def _conv3x3(channels_in: int, channels: int, *, stride: int) -> nn.Conv2d:
    return nn.Conv2d(channels_in, channels, kernel_size=3, stride=stride, padding=1, bias=False)


def _group(channels_in: int, channels: int, *, blocks: int, stride: int) -> nn.Sequential:
    first = _Block(channels_in, channels, stride=stride)
    return nn.Sequential(first, *(_Block(channels, channels, stride=1) for _ in range(blocks - 1)))


def _initialise(module: nn.Module) -> None:
    """Draw weights as the public implementation does (He et al. 2015, arXiv:1502.01852, eq. 10)."""
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_normal_(module.weight)
