"""What every objective offers to the LightningModules."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor, nn
from torchmetrics import MetricCollection

from frostline.batch import Batch
from frostline.nn.backbone import Backbone, Naming
from frostline.nn.class_names import same_classes


class Objective(ABC):
    """The l of L_pre and L_fine: pure, from outputs and a batch to a loss."""

    tasks: ClassVar[tuple[str, ...]]
    """What it can be the loss of: data, model and objective of a run share a task."""
    tells_classes_apart: ClassVar[bool] = True
    """Whether its head has an output for each class of the data."""

    def network(self, model: Backbone, classes: Sequence[str]) -> nn.Module:
        """Build what is trained: the recipe's network as it is, unless the loss is of another problem than its own.

        Args:
            model: The recipe.
            classes: Names of the data's classes, in the order of their indices.

        Returns:
            A module from a batch's inputs to what `loss` takes.
        """
        return model.network(len(classes))

    def brings_head(self, model: Backbone, classes: Sequence[str]) -> bool:
        """Tell whether the recipe's own weights fill the head of that network, and are for these classes.

        Raises:
            RequestError: They are for the same classes in another order.
        """
        own = model.classes if isinstance(model, Naming) else None
        return model.brings_head(len(classes)) and same_classes(own, classes)

    @abstractmethod
    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss over the batch, a scalar."""

    def weight(self, outputs: Any, batch: Batch) -> int:
        """Return how much the batch's mean loss counts in that of a split: by its examples, unless by its tokens."""
        return len(batch.places)

    @abstractmethod
    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return fresh metrics, by the names under which they are logged after the split's.

        A metric is a scalar; one number for each class (C,); or a table of classes by classes (C, C). A scalar, and
        nothing else, says in `higher_is_better` which way is better; the first one by name is what a run reports.

        Args:
            classes: Names of the classes, in the order of their indices.
        """

    @abstractmethod
    def measure(self, metrics: MetricCollection, outputs: Any, batch: Batch) -> None:
        """Add a batch to the metrics."""

    @abstractmethod
    def predictions(self, outputs: Any, batch: Batch) -> Mapping[str, Tensor | Sequence[Any]]:
        """Return what to keep of each example, as columns of B rows: tensors (B,), or plain values such as texts."""


def scalars(metrics: MetricCollection) -> list[str]:
    """Return the names of those metrics that are one number, which choices can be made by."""
    return [str(name) for name, metric in metrics.items() if metric.higher_is_better is not None]
