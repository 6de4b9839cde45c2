"""A fully convolutional head on any classification network."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt
from torch import Tensor, nn
from torchvision.models.segmentation.fcn import FCNHead

from frostline.errors import RequestError, moved
from frostline.nn.backbone import Backbone, ImageInput
from frostline.nn.trunk import Trunk


@dataclass(frozen=True, kw_only=True)
class Fcn:
    """A classification network whose last feature map is classified place by place (Long et al. 2015, arXiv:1411.4038).

    The head is torchvision's; its logits are resized to the image. It suits networks that keep some resolution: a
    ResNet for CIFAR gives a place for 4x4 pixels, one for ImageNet for 32x32.

    Attributes:
        backbone: The classification network.
        size: Shorter side in pixels of what it is shown, unless the data says otherwise.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    backbone: Backbone
    size: Annotated[int, Gt(0)] = 240

    @property
    def input(self) -> ImageInput:
        """The chosen size, normalised as the classification network expects."""
        with _as_it_stands(self.backbone):
            spec = self.backbone.input
        return ImageInput(size=self.size, mean=spec.mean, std=spec.std)

    def brings_head(self, num_classes: int) -> bool:
        """Return False: the head is always new."""
        return False

    def network(self, num_classes: int) -> nn.Module:
        """Build the network: images (B, 3, H, W) -> logits (B, num_classes, H, W)."""
        with _as_it_stands(self.backbone):
            trunk = Trunk(self.backbone, maps=True)
        return _Fcn(trunk, num_classes)


@contextmanager
def _as_it_stands(backbone: Backbone) -> Iterator[None]:
    """Let the classification network speak of its keys as they stand beneath this one's."""
    try:
        yield
    except RequestError as error:
        raise moved(error, "model.backbone", vars(backbone)) from error.__cause__


class _Fcn(nn.Module):
    def __init__(self, trunk: Trunk, num_classes: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = FCNHead(trunk.channels, num_classes)
        self.head_modules = ("head",)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits (B, num_classes, H, W)."""
        return F.interpolate(
            self.head(self.trunk(images).maps), images.shape[-2:], mode="bilinear", align_corners=False
        )
