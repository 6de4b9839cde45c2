"""Every detection network of torchvision, by its name there, with published weights, a file of them, or none."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Gt
from torch import Tensor, nn
from torchvision import models
from torchvision.ops import FrozenBatchNorm2d

from frostline.errors import RequestError, WeightsError
from frostline.nearest import did_you_mean
from frostline.nn.detection import DetectionInput
from frostline.nn.detector import Detector
from frostline.nn.torchvision_weights import bring_head, check_choice, file_of, fill
from frostline.nn.weights import COUNTER, read_weights

_SIZES = {
    "ssd300": DetectionInput(size=300, longest=300, square=True),
    "ssdlite320": DetectionInput(size=320, longest=320, square=True),
    "fasterrcnn_mobilenet_v3_large_320": DetectionInput(size=320, longest=640),
    "": DetectionInput(size=800, longest=1333),
}
"""What networks whose names begin so are shown by torchvision; the first that fits."""

_WITHOUT_BACKGROUND = ("retinanet", "fcos")
"""Families that number their classes from 0; the others keep 0 for the background."""

_PREDICTORS = ("roi_heads.box_predictor.", "head.classification_head.")
"""Where the number of classes shows in the parameters."""

_EPS_OF_FROZEN = {"fasterrcnn_resnet50_fpn": 0.0, "retinanet_resnet50_fpn": 0.0}
"""Networks whose weights are from the time when torchvision's FrozenBatchNorm2d added nothing to the variance."""

_DECIDED = ("backbone", "num_classes", "min_size", "max_size", "size", "image_mean", "image_std", "kwargs")
"""Arguments of torchvision's classes that are not left to the user."""

_TRUNKS = re.compile("resnet50|mobilenet_v3_large|vgg16")


@dataclass(frozen=True, kw_only=True)
class TorchvisionDetector:
    """A detection network of torchvision: Faster R-CNN, RetinaNet, FCOS, SSD or SSDlite.

    All its layers can train. Its batch normalisation is BatchNorm2d, except with weights that were published for
    FrozenBatchNorm2d, whose layers have no statistics to update and no affine parameters to train.

    Attributes:
        name: As `torchvision.models.detection` has it: `fasterrcnn_resnet50_fpn`, `ssdlite320_mobilenet_v3_large`, ...
        weights: A member of the network's weights enum (`DEFAULT`, `COCO_V1`), a file of weights for this network, or
            null for new weights. What predicts classes stays new where their number is another.
        backbone_weights: Weights of the ImageNet classification network below: `DEFAULT` for those that torchvision
            takes, a member of that network's enum, a file, or null for new ones.
        size: Shorter side in pixels of what the network is shown, unless the data says otherwise; null for
            torchvision's.
        arguments: What torchvision's class of this network takes besides, such as `box_batch_size_per_image` of Faster
            R-CNN, which decides what its second stage costs.
    """

    tasks: ClassVar[tuple[str, ...]] = ("detection",)

    name: str
    weights: str | None = "DEFAULT"
    backbone_weights: str | None = None
    size: Annotated[int, Gt(0)] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_arguments(self.name, self.arguments)
        if self.weights is not None and self.backbone_weights is not None:
            raise RequestError("model.backbone_weights: model.weights hold a backbone already; set one of them to null")
        check_choice("model.weights", self.weights, self._enum, name=self.name)
        check_choice("model.backbone_weights", self.backbone_weights, self._trunk_enum, name=self.name)

    @property
    def input(self) -> DetectionInput:
        """The images that torchvision shows to this network, or the same at the chosen size."""
        own = next(spec for begin, spec in _SIZES.items() if self.name.startswith(begin))
        return own if self.size is None else own.of_size(self.size)

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that published weights tell apart, without background."""
        published = self._enum.__members__.get(self.weights)
        return None if published is None else list(published.meta["categories"])[self._first_label :]

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights, COCO's with 90 places for classes or a file's, have as many classes."""
        classes, new = num_classes + self._first_label, partial(self._new, num_classes)
        return bring_head(self.weights, self._enum, classes=classes, new=new)

    def network(self, num_classes: int) -> Detector:
        """Build the network and fill it with its weights; what predicts classes stays new if their number differs.

        Args:
            num_classes: Classes of objects, without background.

        Returns:
            A module from a mapping of `images` and `targets` to `Detected`.

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
        """
        model = self._new(num_classes)
        if self.weights is not None:
            self._fill(model, self.weights)
        if self.backbone_weights is not None:
            _fill_trunk(model, *self._trunk(self.backbone_weights))
        return Detector(model, first_label=self._first_label)

    @property
    def _enum(self) -> Any:
        return models.get_model_weights(self.name)

    @property
    def _trunk_name(self) -> str:
        found = _TRUNKS.search(self.name)
        assert found, f"{self.name} has a trunk that this module does not know"
        return found[0]

    @property
    def _trunk_enum(self) -> Any:
        return models.get_model_weights(self._trunk_name)

    @property
    def _first_label(self) -> int:
        return 0 if self.name.startswith(_WITHOUT_BACKGROUND) else 1

    def _new(self, num_classes: int) -> nn.Module:
        count = num_classes + self._first_label
        none = {"weights": None, "weights_backbone": None}
        network: nn.Module = models.get_model(self.name, num_classes=count, **none, **self.arguments)
        return network

    def _fill(self, model: nn.Module, chosen: str) -> None:
        path = file_of(chosen, self._enum)
        weights = read_weights(path)
        if not any(name.endswith(COUNTER) for name in weights):
            _freeze_norms(model.get_submodule("backbone"), eps=_EPS_OF_FROZEN.get(self.name))
        fill(model, weights, head=_predictors(model), source=path)

    def _trunk(self, chosen: str) -> tuple[str, Path]:
        """Return the classification network below and the file of its weights."""
        if chosen == "DEFAULT":  # SSD's VGG was trained on pixels of another range than classification's
            chosen = signature(models.get_model_builder(self.name)).parameters["weights_backbone"].default.name
        return self._trunk_name, file_of(chosen, self._trunk_enum, key="model.backbone_weights")


def _check_name(name: str) -> None:
    names = models.list_models(module=models.detection)
    known = [each for each in names if not each.startswith(("maskrcnn", "keypointrcnn"))]
    if name in names and name not in known:
        needs = "masks" if name.startswith("mask") else "keypoints"
        raise RequestError(f"model.name: {name} learns from {needs}, which boxes lack; choose fasterrcnn_resnet50_fpn")
    if name not in known:
        problem = f"model.name: '{name}' is no detection network of torchvision"
        raise RequestError(f"{problem}; {did_you_mean(name, known)}")


def _check_arguments(name: str, arguments: Mapping[str, Any]) -> None:
    """Refuse what the class does not take, and what this recipe or the data decide."""
    taken = signature(signature(models.get_model_builder(name)).return_annotation).parameters
    open_ = [each for each in taken if each not in _DECIDED]
    for each in arguments:
        if each not in open_:
            problem = f"model.arguments.{each}: torchvision's {name} takes no such argument here"
            raise RequestError(f"{problem}; {did_you_mean(each, open_)}")


def _predictors(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: p for name, p in model.named_parameters() if name.startswith(_PREDICTORS)}


def _freeze_norms(parent: nn.Module, *, eps: float | None) -> None:
    """Put FrozenBatchNorm2d in the place of BatchNorm2d, as in the network that the weights were published for."""
    for name, child in parent.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(parent, name, FrozenBatchNorm2d(child.num_features, child.eps if eps is None else eps))
        else:
            _freeze_norms(child, eps=eps)


def _fill_trunk(model: nn.Module, name: str, source: Path) -> None:
    """Load a classification network's weights into the trunk, whose tensors come in the same order, and its epsilons.

    Raises:
        WeightsError: The weights are those of another network, or not finite.
    """
    with torch.device("meta"):
        classifier: nn.Module = models.get_model(name, weights=None)
    weights, backbone = read_weights(source), model.get_submodule("backbone")
    own = {n: t for n, t in backbone.state_dict().items() if n != "scale_weight"}
    theirs = {n: t for n, t in classifier.state_dict().items() if not n.startswith(("fc.", "classifier."))}
    pairs = list(zip(own, theirs, strict=False))
    _refuse_other_trunk(own, theirs, pairs, weights, source)
    filled = {ours: weights[wanted] for ours, wanted in pairs if wanted in weights}
    backbone.load_state_dict(filled, strict=False)
    for ours, wanted in zip(_norms(backbone), _norms(classifier), strict=False):
        ours.eps = wanted.eps


def _refuse_other_trunk(
    own: Mapping[str, Tensor],
    theirs: Mapping[str, Tensor],
    pairs: list[tuple[str, str]],
    weights: Mapping[str, Tensor],
    source: Path,
) -> None:
    if any(own[ours].shape != theirs[wanted].shape for ours, wanted in pairs):
        raise WeightsError(
            "model.backbone_weights: the backbone of this network is narrower than the classification network, whose "
            "weights it cannot take; choose model.weights=DEFAULT, another model.name, or null"
        )
    for name, tensor in theirs.items():
        given = weights.get(name)
        if name.endswith(COUNTER) and given is None:
            continue
        if given is None or given.shape != tensor.shape or not torch.isfinite(given).all():
            problem = "no value for" if given is None else "another shape of, or broken values in,"
            way_out = "choose the weights of the classification network that this one is built on"
            raise WeightsError(f"model.backbone_weights: {source} has {problem} '{name}'; {way_out}")


def _norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
