"""Networks of transformers that classify every pixel, SegFormer's kin."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt
from torch import Tensor, nn

from frostline.nn import hub
from frostline.nn.backbone import ImageInput

_FAMILY = "AutoModelForSemanticSegmentation"
_HEADS = ("decode_head", "auxiliary_head", "segmentation_head", "classifier", "head")
"""What these networks call what they put on an encoder."""


@dataclass(frozen=True, kw_only=True)
class TransformersSegmenter:
    """A semantic segmentation network of transformers: SegFormer (Xie et al. 2021, arXiv:2105.15203) and others.

    Attributes:
        name: An id of the hub (`nvidia/segformer-b0-finetuned-ade-512-512`) or a local folder with a configuration and
            `model.safetensors`; with `pretrained=false` also a kind of network (`segformer`, `dpt`, ...).
        pretrained: Take the weights of `name`, too; otherwise they are new.
        size: Shorter side in pixels of what the network is shown, unless the data says otherwise.
        mean: Per channel, subtracted from values in [0, 1]; ImageNet's, as these networks take it.
        std: Per channel, what the difference is divided by.
        config: What the configuration says otherwise: `{depths: [1, 1, 1, 1]}`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    name: str
    pretrained: bool = True
    size: Annotated[int, Gt(0)] = 512
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> ImageInput:
        """The chosen size and normalisation."""
        return ImageInput(size=self.size, mean=tuple(self.mean), std=tuple(self.std))

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a network for segmentation, with as many classes."""
        of_the_task = self._kind.__name__ in (self._config.architectures or [])
        return bool(self.pretrained and of_the_task and self._config.num_labels == num_classes)

    def network(self, num_classes: int) -> nn.Module:
        """Build the network: images (B, 3, H, W) -> logits (B, num_classes, H, W).

        Raises:
            WeightsError: The weights lack more than the head, or cannot be read.
        """
        config = deepcopy(self._config)
        config.num_labels = num_classes
        network, drawn = hub.built(self._kind, config, name=self.name, pretrained=self.pretrained)
        hub.refuse_incomplete(self.name, drawn, may_be_new=lambda parameter: parameter.startswith(_HEADS))
        return _Upsampled(network)

    @cached_property
    def _config(self) -> Any:
        return hub.configuration(self.name, self.config, new=not self.pretrained)

    @cached_property
    def _kind(self) -> Any:
        return hub.member(_FAMILY, self._config, name=self.name, task=self.tasks[0])


class _Upsampled(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head_modules = tuple(f"model.{name}" for name in _HEADS if getattr(model, name, None) is not None)

    def forward(self, images: Tensor) -> Tensor:
        """Map images (B, 3, H, W) to logits of their size."""
        logits = self.model(pixel_values=images).logits
        return F.interpolate(logits, images.shape[-2:], mode="bilinear", align_corners=False)
