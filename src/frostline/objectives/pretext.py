"""What objectives of self-supervision share: the images are the labels, and features are judged by their neighbours."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

from torch import nn
from torchmetrics import Metric, MetricCollection

from frostline.batch import Batch
from frostline.nn.backbone import Backbone
from frostline.nn.trunk import Trunk
from frostline.objectives.knn import KnnAccuracy
from frostline.objectives.objective import Objective


class Pretext(Objective):
    """A problem that is made of the images alone.

    Its network sets the problem and returns a mapping of what the loss takes and, outside training, of `features`
    (B, F): those of the images as they are.
    """

    tasks: ClassVar[tuple[str, ...]] = ("self_supervised",)
    tells_classes_apart: ClassVar[bool] = False

    def network(self, model: Backbone, classes: Sequence[str]) -> nn.Module:
        """Put this problem's head on the recipe's trunk."""
        return self.on(Trunk(model), model)

    def brings_head(self, model: Backbone, classes: Sequence[str]) -> bool:
        """Return False: the head of the problem is always new."""
        return False

    @abstractmethod
    def on(self, trunk: Trunk, model: Backbone) -> nn.Module:
        """Return the network that sets and solves the problem."""

    @abstractmethod
    def own_metrics(self) -> dict[str, Metric]:
        """Return how well the problem itself is solved."""

    @abstractmethod
    def measure_own(self, metrics: MetricCollection, outputs: Any, batch: Batch) -> None:
        """Add a batch to these."""

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return how well the problem is solved and, where the data has labels, the neighbours' accuracy."""
        knn = {"knn_accuracy": KnnAccuracy()} if classes else {}
        return MetricCollection({**knn, **self.own_metrics()}, compute_groups=False)

    def measure(self, metrics: MetricCollection, outputs: Any, batch: Batch) -> None:
        """Add a batch to the metrics."""
        if "knn_accuracy" in metrics:
            metrics["knn_accuracy"].update(outputs["features"], batch.targets)
        self.measure_own(metrics, outputs, batch)
