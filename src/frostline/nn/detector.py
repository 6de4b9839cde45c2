"""torchvision's detection networks as modules that give their losses and, in evaluation, what they detect."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from frostline.nn.chance import chance
from frostline.nn.detection import Detected

_CONTAINERS = ("rpn", "roi_heads")
"""Parts that ask their own mode whether to compute losses, and hold no state that depends on it."""

_HEADS = ("backbone.fpn", "rpn", "roi_heads", "head")
"""What these networks add to a network for classification, wherever they have it."""


class Detector(nn.Module):
    """A detection network of torchvision.

    torchvision computes losses in training mode only, of which frozen stages have none and evaluation none at all. Here
    the root and its parts without state are told apart from their layers: every layer keeps its mode, and losses come
    whenever there are targets. In evaluation the candidates that the losses look at are drawn alike each time, and the
    global generators stay as they are.

    Args:
        model: The network.
        first_label: The index of the first class: 1 where 0 is the background, 0 where there is none.
    """

    def __init__(self, model: nn.Module, *, first_label: int) -> None:
        super().__init__()
        model.transform = _AsShown.of(model.transform)
        self.model = model
        self.first_label = first_label
        self.head_modules = tuple(f"model.{name}" for name in _added(model))
        # SSD's own scale of what it detects small objects in
        self.head_parameters = ("model.backbone.scale_weight",) if hasattr(model.backbone, "scale_weight") else ()

    def forward(self, inputs: Mapping[str, Any]) -> Detected:
        """Map B images to losses and, in evaluation, detections.

        Args:
            inputs: `images`, B float tensors (3, H, W) in [0, 1] of any sizes, and for the losses `targets`: per image
                `boxes` (n, 4) as x1, y1, x2, y2 in pixels, and `labels` (n,) from 0.
        """
        images = inputs["images"]
        if self.training:
            return Detected(self._losses(images, inputs["targets"]), [])
        with chance(images[0].device, training=False), _answering_once(self.model):
            losses = self._losses(images, inputs["targets"]) if "targets" in inputs else {}
            return Detected(losses, self._detections(images))

    def _losses(self, images: Sequence[Tensor], targets: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
        shifted = [{"boxes": each["boxes"], "labels": each["labels"] + self.first_label} for each in targets]
        with _mode_of_containers(self.model, training=True):
            losses: dict[str, Tensor] = self.model(list(images), shifted)
        return losses

    @torch.no_grad()
    def _detections(self, images: Sequence[Tensor]) -> list[dict[str, Tensor]]:
        with _mode_of_containers(self.model, training=False):
            found = self.model(list(images))
        return [{**each, "labels": each["labels"] - self.first_label} for each in found]


class _AsShown(GeneralizedRCNNTransform):  # type: ignore[misc]
    """torchvision's transform, which normalises and pads, but leaves the size to the data."""

    @classmethod
    def of(cls, own: Any) -> "_AsShown":
        """Return the same transform without its resizing."""
        return cls(
            own.min_size,
            own.max_size,
            own.image_mean,
            own.image_std,
            size_divisible=own.size_divisible,
            fixed_size=own.fixed_size,
        )

    def resize(self, image: Tensor, target: Any = None) -> tuple[Tensor, Any]:
        """Return the image and its boxes as they are, without drawing a size from the global generator."""
        return image, target


def _added(model: nn.Module) -> list[str]:
    """Name the modules that detection adds to the trunk of a classification network, in forward order."""
    modules = dict(model.named_modules())
    return [*_added_by_ssd(model), *(name for name in _HEADS if name in modules)]


def _added_by_ssd(model: nn.Module) -> list[str]:
    """Name SSD's extra layers; VGG's first one begins with what is still VGG's, before the layers that replace it."""
    extra = getattr(model.backbone, "extra", None)
    if extra is None:
        return []
    names = [f"backbone.extra.{place}" for place, _ in extra.named_children()]
    return [f"{names[0]}.{len(extra[0]) - 1}", *names[1:]] if hasattr(model.backbone, "scale_weight") else names


@contextmanager
def _mode_of_containers(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Set the mode of the root and its parts, of these modules alone, and put it back."""
    containers = [model, *(getattr(model, name) for name in _CONTAINERS if hasattr(model, name))]
    modes = [module.training for module in containers]
    for module in containers:
        module.training = training
    try:
        yield
    finally:
        for module, mode in zip(containers, modes, strict=True):
            module.training = mode


@contextmanager
def _answering_once(model: nn.Module) -> Iterator[None]:
    """Let what losses and detections share answer a second call with what it gave at the first."""
    shared = [getattr(model, name) for name in ("backbone", "head") if hasattr(model, name)]
    for module in shared:
        module.forward = _Memory(module.forward)
    try:
        yield
    finally:
        for module in shared:
            del module.forward  # the class's own is there again


class _Memory:
    def __init__(self, forward: Any) -> None:
        self._forward = forward
        self._answers: list[Any] = []

    def __call__(self, *inputs: Any) -> Any:
        if not self._answers:
            self._answers.append(self._forward(*inputs))
        return self._answers[0]
