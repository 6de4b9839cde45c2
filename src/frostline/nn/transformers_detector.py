"""Detection networks of transformers, DETR's kin: of its hub, of a local folder, or new by their kind."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from inspect import signature
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torchvision.ops import box_convert

from frostline.errors import RequestError
from frostline.nearest import did_you_mean
from frostline.nn import hub
from frostline.nn.detection import Detected, DetectionInput
from frostline.nn.extras import library

_TASK = "ForObjectDetection"

_PREDICTORS = (
    "class_labels_classifier",
    "bbox_predictor",
    "class_embed",
    "bbox_embed",
    "enc_score_head",
    "enc_bbox_head",
    "denoising_class_embed",
)
"""What predicts classes and boxes, at each depth where a network does so, by the names in its code."""


@dataclass(frozen=True, kw_only=True)
class TransformersDetector:
    """A detection network of transformers: DETR (Carion et al. 2020, arXiv:2005.12872) and what came after.

    Attributes:
        name: An id of the hub (`facebook/detr-resnet-50`) or a local folder with a configuration and
            `model.safetensors`; with `pretrained=false` also a kind of network (`detr`, `yolos`, ...).
        pretrained: Take the weights of `name`, too; otherwise they are new.
        size: Shorter side in pixels of what the network is shown, unless the data says otherwise; null for that of its
            image processor.
        config: What the configuration says otherwise: `{num_queries: 30}`.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    name: str
    pretrained: bool = True
    size: Annotated[int, Gt(0)] | None = None
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def input(self) -> DetectionInput:
        """The images that the network's image processor makes, or the same at the chosen size."""
        sides = dict(self._processor.size)
        if "height" in sides:
            own = DetectionInput(size=sides["height"], longest=sides["height"], square=True)
        else:
            own = DetectionInput(size=sides["shortest_edge"], longest=sides.get("longest_edge") or 1333)
        return own if self.size is None else own.of_size(self.size)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that the weights tell apart, where the configuration has some."""
        return hub.class_names(self._config)

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights are those of a detection network with as many classes."""
        of_the_task = any(kind.endswith(_TASK) for kind in self._config.architectures or [])
        return self.pretrained and of_the_task and self._config.num_labels == num_classes

    def network(self, num_classes: int) -> "Detr":
        """Build the network, filled with its weights where `pretrained` says so.

        Args:
            num_classes: Classes of objects, without background.

        Returns:
            A module from a mapping of `images` and `targets` to `Detected`.

        Raises:
            WeightsError: The weights lack more than what predicts, or cannot be read.
        """
        config = deepcopy(self._config)
        config.num_labels = num_classes
        kind = hub.member("AutoModelForObjectDetection", config, name=self.name, task=self.tasks[0])
        network, drawn = hub.built(kind, config, name=self.name, pretrained=self.pretrained)
        hub.refuse_incomplete(
            self.name, drawn, may_be_new=lambda name: not set(_PREDICTORS).isdisjoint(name.split("."))
        )
        return Detr(network, self._processor)

    @cached_property
    def _config(self) -> Any:
        read = hub.configuration(self.name, self.config, new=not self.pretrained)
        _check_kind(self.name, read)
        if getattr(read, "use_pretrained_backbone", False):
            read.use_pretrained_backbone = False  # its weights are among the network's own, or new as these
        return read

    @cached_property
    def _processor(self) -> Any:
        """What knows sizes, normalisation and how to read detections off: that of the folder, or its kind's."""
        return hub.image_processor(self.name, self._config, pretrained=self.pretrained)


class Detr(nn.Module):
    """A detection network of transformers.

    Boxes are relative to the image, or, for networks that are not told which pixels are padding, to the padded image.

    Args:
        model: From `pixel_values` and `labels` to an output with a `loss`.
        processor: Its image processor.
    """

    def __init__(self, model: nn.Module, processor: Any) -> None:
        super().__init__()
        self.model = model
        self.head_modules = tuple(f"model.{name}" for name in _tops(model))
        self._masked = "pixel_mask" in signature(model.forward).parameters
        self._read_off = processor.post_process_object_detection
        normalises = bool(processor.do_normalize)
        self._mean = tuple(processor.image_mean) if normalises else (0.0, 0.0, 0.0)
        self._std = tuple(processor.image_std) if normalises else (1.0, 1.0, 1.0)

    def forward(self, inputs: Mapping[str, Any]) -> Detected:
        """Map B images to losses and, in evaluation, detections.

        Args:
            inputs: `images`, B float tensors (3, H, W) in [0, 1] of any sizes, and for the losses `targets`: per image
                `boxes` (n, 4) as x1, y1, x2, y2 in pixels, and `labels` (n,) from 0.
        """
        pixels, mask = self._padded(inputs["images"])
        sizes = [tuple((each if self._masked else pixels).shape[-2:]) for each in inputs["images"]]
        given: dict[str, Any] = {"pixel_mask": mask} if self._masked else {}
        targets = inputs.get("targets")
        if targets is not None:
            given["labels"] = [_relative(each, size) for each, size in zip(targets, sizes, strict=True)]
        outputs = self.model(pixel_values=pixels, **given)
        losses = {} if targets is None else {"loss": outputs.loss}
        return Detected(losses, [] if self.training else self._detections(outputs, sizes))

    def _padded(self, images: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Return normalised images (B, 3, H, W) of the largest height and width, and 1 where they are no padding."""
        height, width = (max(image.shape[axis] for image in images) for axis in (-2, -1))
        pixels = images[0].new_zeros(len(images), 3, height, width)
        mask = torch.zeros(len(images), height, width, dtype=torch.int64, device=images[0].device)
        mean, std = (images[0].new_tensor(values).view(3, 1, 1) for values in (self._mean, self._std))
        for place, image in enumerate(images):
            pixels[place, :, : image.shape[-2], : image.shape[-1]] = (image - mean) / std
            mask[place, : image.shape[-2], : image.shape[-1]] = 1
        return pixels, mask

    @torch.no_grad()
    def _detections(self, outputs: Any, sizes: Sequence[tuple[int, ...]]) -> list[dict[str, Tensor]]:
        found = self._read_off(outputs, threshold=0.0, target_sizes=torch.tensor(sizes, device=outputs.logits.device))
        sorted_ = [(each, each["scores"].argsort(descending=True)) for each in found]
        return [{name: each[name][order] for name in ("boxes", "scores", "labels")} for each, order in sorted_]


def _tops(model: nn.Module) -> list[str]:
    """Name the modules that predict, each once."""
    return [name for name, _ in model.named_modules() if _predicts(name) and not _predicts(name.rpartition(".")[0])]


def _predicts(name: str) -> bool:
    return not set(_PREDICTORS).isdisjoint(name.split("."))


def _relative(target: Mapping[str, Tensor], size: tuple[int, ...]) -> dict[str, Tensor]:
    """Return class and box of each object as centre, width and height, relative to the image's height and width."""
    height, width = size
    sides = target["boxes"].new_tensor([width, height, width, height])
    return {"class_labels": target["labels"], "boxes": box_convert(target["boxes"], "xyxy", "cxcywh") / sides}


def _check_kind(name: str, config: Any) -> None:
    transformers = library("transformers", extra="text")
    known = transformers.models.auto.modeling_auto.MODEL_FOR_OBJECT_DETECTION_MAPPING_NAMES
    if config.model_type not in known:
        problem = f"model.name={name}: transformers has no '{config.model_type}' for detection"
        raise RequestError(f"{problem}; {did_you_mean(config.model_type, known)}")
    library("scipy", extra="detection")
    backbone = getattr(config, "backbone_config", None)
    if getattr(backbone, "model_type", "") == "timm_backbone" or getattr(config, "use_timm_backbone", False):
        library("timm", extra="timm")
