"""Networks of transformers that classify every pixel, SegFormer's kin."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Annotated, Any, ClassVar

import torch.nn.functional as F  # noqa: N812
from annotated_types import Gt
from torch import Tensor, nn

from frostline.nn import hub
from frostline.nn.backbone import ImageInput

_FAMILY = "AutoModelForSemanticSegmentation"


@dataclass(frozen=True, kw_only=True)
class TransformersSegmenter:
    """A semantic segmentation network of transformers: SegFormer (Xie et al. 2021, arXiv:2105.15203) and others.

    Attributes:
        name: An id of the hub (`nvidia/segformer-b0-finetuned-ade-512-512`, or `nvidia/mit-b0`, which has no head yet)
            or a local folder with a configuration and `model.safetensors`; with `pretrained=false` also a kind of
            network (`segformer`, `dpt`, ...).
        pretrained: Take the weights of `name`, too; otherwise they are new.
        size: Shorter side in pixels of what the network is shown, unless the data says otherwise; null for that of its
            image processor, or of its kind's where the folder has none. Normalisation is the image processor's.
        config: What the configuration says otherwise: `{depths: [1, 1, 1, 1]}`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    name: str
    pretrained: bool = True
    size: Annotated[int, Gt(0)] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> ImageInput:
        """The images that the network's image processor makes, or the same at the chosen size."""
        processor = self._processor
        sides = [side for side in (processor.size.shortest_edge, processor.size.height, processor.size.width) if side]
        normalises = bool(processor.do_normalize)
        return ImageInput(
            size=self.size or min(sides),
            mean=tuple(processor.image_mean) if normalises else (0.0, 0.0, 0.0),
            std=tuple(processor.image_std) if normalises else (1.0, 1.0, 1.0),
        )

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that the weights tell apart, where the configuration has some."""
        return hub.class_names(self._config)

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a network for segmentation, with as many classes."""
        of_the_task = self._kind.__name__ in (self._config.architectures or [])
        return bool(self.pretrained and of_the_task and self._config.num_labels == num_classes)

    def network(self, num_classes: int) -> nn.Module:
        """Build the network, filled with its weights where `pretrained` says so; another number of classes is new.

        Args:
            num_classes: Classes that each pixel is one of.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes, H, W), and while training to a tuple of them
            with auxiliary logits, where the network has an auxiliary head.

        Raises:
            RequestError: transformers has no such network for segmentation.
            WeightsError: The weights lack more than the head, or cannot be read.
        """
        config = deepcopy(self._config)
        config.num_labels = num_classes
        model, drawn = hub.built(self._kind, config, name=self.name, pretrained=self.pretrained)
        heads = tuple(f"{name}." for name in _heads(model))
        hub.refuse_incomplete(self.name, drawn, may_be_new=lambda parameter: parameter.startswith(heads))
        # MobileViT was trained on images whose first channel is blue.
        return Upsampled(model, blue_first=bool(getattr(self._processor, "do_flip_channel_order", False)))

    @cached_property
    def _config(self) -> Any:
        return hub.configuration(self.name, self.config, new=not self.pretrained)

    @cached_property
    def _kind(self) -> Any:
        return hub.member(_FAMILY, self._config, name=self.name, task=self.tasks[0])

    @cached_property
    def _processor(self) -> Any:
        """What knows size and normalisation: that of the folder, or its kind's."""
        assert self._kind is not None, "a kind that cannot do the task is refused"
        return hub.image_processor(self.name, self._config, pretrained=self.pretrained)


class Upsampled(nn.Module):
    """A segmentation network of transformers whose logits have the size of the image.

    Args:
        model: From `pixel_values` to an output that has `logits`; its `auxiliary_head`, where it has one, gives others.
        blue_first: Whether it takes the channels of images the other way round.
    """

    def __init__(self, model: nn.Module, *, blue_first: bool = False) -> None:
        super().__init__()
        self.model = model
        self.head_modules = tuple(f"model.{name}" for name in _heads(model))
        self._blue_first = blue_first

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to logits (B, C, H, W), while training with those of an auxiliary head."""
        heard: list[Tensor] = []
        auxiliary = getattr(self.model, "auxiliary_head", None)
        handle = auxiliary.register_forward_hook(partial(_hear, heard)) if auxiliary is not None else None
        try:
            logits = self.model(pixel_values=images.flip(1) if self._blue_first else images).logits
        finally:
            if handle is not None:
                handle.remove()
        sized = [
            F.interpolate(each, images.shape[-2:], mode="bilinear", align_corners=False) for each in [logits, *heard]
        ]
        return tuple(sized) if self.training and heard else sized[0]


def _hear(heard: list[Tensor], *call: Any) -> None:
    heard.append(call[-1])


def _heads(model: nn.Module) -> list[str]:
    """Name what is no part of the encoder, which is called `backbone` where the kind has no name of its own for it."""
    encoders = (getattr(model, "base_model_prefix", ""), "backbone")
    owners = [name for name, child in model.named_children() if any(True for _ in child.parameters())]
    return [name for name in owners if name not in encoders]
