"""Every classification network of torchvision, by its name there, with published weights, a file of them, or none."""

import re
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import torch
from torch import nn
from torchvision import models

from frostline.errors import RequestError
from frostline.nearest import did_you_mean
from frostline.nn.backbone import CLASSIFIERS, ImageInput
from frostline.nn.stages import stages
from frostline.nn.torchvision_weights import bring_head, check_choice, file_of, fill
from frostline.nn.weights import read_weights

# Trained on pixels in [-1, 1]; torchvision hides it behind a second normalisation in the network, which stays off here.
_ON_SYMMETRIC_PIXELS = ("googlenet", "inception_v3")

# The published DenseNets were saved when module names could hold dots.
_DENSENET_DOT = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12]\.)")


@dataclass(frozen=True, kw_only=True)
class Torchvision:
    """A classification network of torchvision.

    Attributes:
        name: As `torchvision.models.list_models` has it: `resnet50`, `vit_b_16`, ...
        weights: A member of the network's weights enum (`DEFAULT`, `IMAGENET1K_V1`, ...), a file of weights for this
            network, or null for new weights.
    """

    tasks: ClassVar[tuple[str, ...]] = CLASSIFIERS

    name: str
    weights: str | None = "DEFAULT"

    def __post_init__(self) -> None:
        names = models.list_models(module=models)
        if self.name not in names:
            problem = f"model.name: '{self.name}' is no classification network of torchvision"
            raise RequestError(f"{problem}; {_elsewhere(self.name) or did_you_mean(self.name, names)}")
        check_choice("model.weights", self.weights, self._enum, name=self.name)

    @property
    def input(self) -> ImageInput:
        """Crop size and normalisation of the chosen weights' evaluation; a file or new weights take the default's.

        How the weights' authors resized an image before they cropped it (to 232 pixels for 224, say, bicubically) is
        not told: data resize in their own way, so that published accuracies are met only nearly.
        """
        preset = (self._published or self._enum["DEFAULT"]).transforms()
        if self.name in _ON_SYMMETRIC_PIXELS:
            return ImageInput(size=preset.crop_size[0], mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
        return ImageInput(size=preset.crop_size[0], mean=tuple(preset.mean), std=tuple(preset.std))

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that published weights tell apart."""
        return None if self._published is None else list(self._published.meta["categories"])

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights, those of ImageNet's 1,000 classes or a file's, have as many classes."""
        new = partial(self._new, num_classes)
        return bring_head(self.weights, self._enum, classes=num_classes, new=new, rename=_without_dots)

    def network(self, num_classes: int) -> nn.Module:
        """Build the network and fill it with its weights; a classifier of another size keeps its new weights.

        Args:
            num_classes: Classes that the last layer, and that of each auxiliary classifier, tells apart.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes); GoogLeNet and Inception return a named tuple
            of logits and auxiliary logits while they train.

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
        """
        network = self._new(num_classes)
        if self.weights is not None:
            path = file_of(self.weights, self._enum)
            head = stages(network, torch.zeros(1, 3, self.input.size, self.input.size))[-1].parameters
            fill(network, read_weights(path), head=head, source=path, rename=_without_dots)
        return network

    @property
    def _enum(self) -> Any:
        return models.get_model_weights(self.name)

    @property
    def _published(self) -> Any:
        return self._enum.__members__.get(self.weights)

    def _new(self, num_classes: int) -> nn.Module:
        network: nn.Module = models.get_model(self.name, num_classes=num_classes, **self._arguments())
        return network

    def _arguments(self) -> dict[str, Any]:
        if self.name in _ON_SYMMETRIC_PIXELS:
            return {"aux_logits": True, "transform_input": False, "init_weights": True}
        # A vision transformer's position table has the size of the images that its weights were trained on.
        return {"image_size": self.input.size} if self.name.startswith("vit_") else {}


def _without_dots(name: str) -> str:
    return _DENSENET_DOT.sub(r"\1\2", name)


def _elsewhere(name: str) -> str | None:
    """Return which choice has a network of another task."""
    for module, choice in ((models.detection, "torchvision_detector"), (models.segmentation, "torchvision_segmenter")):
        if name in models.list_models(module=module):
            return f"choose model={choice}"
    return None
