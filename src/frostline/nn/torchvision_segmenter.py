"""Every semantic segmentation network of torchvision, by its name there."""

from dataclasses import dataclass
from functools import partial
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, ClassVar

from annotated_types import Gt
from torch import Tensor, nn
from torchvision import models

from frostline.errors import RequestError
from frostline.nearest import did_you_mean
from frostline.nn.backbone import ImageInput
from frostline.nn.torchvision_weights import bring_head, check_choice, file_of, fill
from frostline.nn.weights import read_weights

_LAST = ("classifier.", "aux_classifier.")
_BACKBONE = "model.backbone_weights"
_CLASSIFIERS = ("fc.", "classifier.")


@dataclass(frozen=True, kw_only=True)
class TorchvisionSegmenter:
    """A semantic segmentation network of torchvision: FCN, DeepLabV3 or LR-ASPP.

    Attributes:
        name: As `torchvision.models.segmentation` has it: `deeplabv3_resnet50`, `lraspp_mobilenet_v3_large`, ...
        weights: A member of the network's weights enum (`DEFAULT`, ...), a file of weights for this network, or null
            for new weights. What is sized by the number of classes stays new where that is another.
        backbone_weights: Weights of the ImageNet classification network below: `DEFAULT`, a member of that network's
            enum, a file, or null for new ones.
        size: Shorter side in pixels of what the network is shown, unless the data says otherwise.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    name: str
    weights: str | None = "DEFAULT"
    backbone_weights: str | None = None
    size: Annotated[int, Gt(0)] = 520

    def __post_init__(self) -> None:
        names = models.list_models(module=models.segmentation)
        if self.name not in names:
            problem = f"model.name: '{self.name}' is no segmentation network of torchvision"
            raise RequestError(f"{problem}; {did_you_mean(self.name, names)}")
        if self.weights is not None and self.backbone_weights is not None:
            raise RequestError("model.backbone_weights: model.weights hold a backbone already; set one of them to null")
        check_choice("model.weights", self.weights, self._enum, name=self.name)
        check_choice(_BACKBONE, self.backbone_weights, self._trunk_enum, name=self.name)

    @property
    def input(self) -> ImageInput:
        """ImageNet's normalisation, at the chosen size."""
        preset = self._enum["DEFAULT"].transforms()
        return ImageInput(size=self.size, mean=tuple(preset.mean), std=tuple(preset.std))

    @property
    def classes(self) -> list[str] | None:
        """Names of the classes that published weights tell apart."""
        published = self._enum.__members__.get(self.weights)
        return None if published is None else list(published.meta["categories"])

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the weights, those of Pascal VOC's 21 classes or a file's, have as many classes."""
        return bring_head(self.weights, self._enum, classes=num_classes, new=partial(self._new, num_classes))

    def network(self, num_classes: int) -> nn.Module:
        """Build the network and fill it with its weights; a last layer of another size keeps its new weights.

        Args:
            num_classes: Classes that each pixel is one of.

        Returns:
            A module from images (B, 3, H, W) to logits (B, num_classes, H, W), and while training to a tuple of them
            with auxiliary logits, where the network has an auxiliary head.

        Raises:
            WeightsError: The weights cannot be downloaded or read, or are those of another network.
        """
        network = self._new(num_classes)
        if self.weights is not None:
            path = file_of(self.weights, self._enum)
            head = [name for name, _ in network.named_parameters() if name.startswith(_LAST)]
            fill(network, read_weights(path), head=head, source=path)
        if self.backbone_weights is not None:
            source = file_of(self.backbone_weights, self._trunk_enum, key=_BACKBONE)
            _fill_trunk(network.get_submodule("backbone"), source)
        return Segmenter(network)

    def _new(self, num_classes: int) -> nn.Module:
        builder = models.get_model_builder(self.name)
        auxiliary = {"aux_loss": True} if "aux_loss" in signature(builder).parameters else {}
        network: nn.Module = builder(weights=None, weights_backbone=None, num_classes=num_classes, **auxiliary)
        return network

    @property
    def _enum(self) -> Any:
        return models.get_model_weights(self.name)

    @property
    def _trunk_enum(self) -> Any:
        return models.get_model_weights(self.name.partition("_")[2])


class Segmenter(nn.Module):
    """A segmentation network of torchvision as a module from images to logits.

    Args:
        model: From images to a mapping of `out` and, of auxiliary heads, `aux`.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.head_modules = tuple(f"model.{name[:-1]}" for name in _LAST if getattr(model, name[:-1], None) is not None)

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Map images (B, 3, H, W) to logits (B, C, H, W), while training with those of an auxiliary head."""
        outputs: dict[str, Tensor] = self.model(images)
        return tuple(outputs.values()) if self.training and len(outputs) > 1 else outputs["out"]


def _fill_trunk(backbone: nn.Module, source: Path) -> None:
    """Load a classification network's weights; what is behind the features is left out."""
    weights = read_weights(source)
    features = {name: weight for name, weight in weights.items() if not name.startswith(_CLASSIFIERS)}
    fill(backbone, features, head=(), source=source, key=_BACKBONE, rename=_without_features)


def _without_features(name: str) -> str:
    return name.removeprefix("features.")
