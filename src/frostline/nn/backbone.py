"""What every network is built from: a recipe that says which images it expects, and builds the network."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

from torch import nn

CLASSIFIERS = ("classification", "multilabel", "self_supervised")
"""What a network from images to one logit for each class is good for."""


@dataclass(frozen=True, kw_only=True)
class ImageInput:
    """The images that a network expects.

    Attributes:
        size: Height and width in pixels.
        mean: Per channel, subtracted from values in [0, 1].
        std: Per channel, what the difference is divided by.
    """

    size: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


@runtime_checkable
class Backbone(Protocol):
    """A recipe for a network; it knows nothing of training. One whose weights name classes is `Naming`, too."""

    tasks: ClassVar[tuple[str, ...]]
    """What its outputs are good for: data, model and objective of a run share a task."""

    @property
    def input(self) -> Any:
        """What the network expects: an `ImageInput`, say."""

    def brings_head(self, num_classes: int) -> bool:
        """Tell whether the recipe's own weights fill a last layer of so many classes."""

    def network(self, num_classes: int) -> nn.Module:
        """Build the network.

        Args:
            num_classes: Classes that the last layer tells apart.

        Returns:
            A module from a batch's inputs to what objectives of its task take: for classification to logits
            (B, num_classes), or to a tuple of logits and auxiliary logits, each (B, num_classes), while it trains.
        """


@runtime_checkable
class Naming(Protocol):
    """A recipe that knows which classes the head of its weights tells apart, see `frostline.nn.class_names`."""

    @property
    def classes(self) -> Sequence[str] | None:
        """Names of the classes in the order of their indices; None where the chosen weights name none."""
