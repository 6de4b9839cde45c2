"""What every objective offers to the LightningModules."""

from collections.abc import Sequence
from typing import Any, Protocol

from torch import Tensor
from torchmetrics import MetricCollection

from frostline.batch import Batch


class Objective(Protocol):
    """The l of L_pre and L_fine: pure, from outputs and a batch to a loss.

    One that is of a single task names it in an attribute `task`, as data and models do.
    """

    def loss(self, outputs: Any, batch: Batch) -> Tensor:
        """Return the mean loss over the batch, a scalar."""

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return fresh metrics, by the names under which they are logged after the split's.

        Args:
            classes: Names of the classes, in the order of their indices.
        """

    def measure(self, metrics: MetricCollection, outputs: Any, batch: Batch) -> None:
        """Add a batch to the metrics."""

    def predictions(self, outputs: Any, batch: Batch) -> dict[str, Tensor]:
        """Return what to keep of each example, as columns of B rows; `target` and `prediction` are among them."""
