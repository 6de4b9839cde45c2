"""One label for each example."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassCalibrationError,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)

from frostline.batch import Batch
from frostline.objectives.auxiliary import Logits, deciding, total
from frostline.objectives.cross_entropy import CrossEntropy
from frostline.objectives.objective import Objective


class Classification(Objective):
    """Classify into one of C classes.

    The network gives logits of shape (B, C), or while training a tuple of them with those of auxiliary classifiers,
    whose losses are added with a weight (Inception v3, arXiv:1512.00567, section 4; torchvision trains with 0.4).

    Args:
        loss: From logits (B, C) and classes (B,) to a scalar; by default the cross-entropy.
        auxiliary_weight: Weight of each auxiliary classifier's loss.
    """

    tasks: ClassVar[tuple[str, ...]] = ("classification",)

    def __init__(
        self,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = CrossEntropy(),  # noqa: B008 (it holds no state)
        auxiliary_weight: Annotated[float, Ge(0)] = 0.4,
    ) -> None:
        self._loss = loss
        self._auxiliary_weight = auxiliary_weight

    def loss(self, outputs: Logits, batch: Batch) -> Tensor:
        """Return the batch's mean loss, a scalar."""
        return total(partial(self._of, batch), outputs, weight=self._auxiliary_weight)

    def _of(self, batch: Batch, logits: Tensor) -> Tensor:
        return self._loss(logits, batch.targets)

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return top-1 and, of more than five classes, top-5 accuracy, macro-F1, Matthews, calibration and confusion.

        The calibration error is the mean gap between confidence and accuracy in 15 bins of equal width (Guo et al.
        2017, arXiv:1706.04599, section 2). The confusion matrix has targets as rows and predictions as columns.
        """
        count = len(classes)
        top5 = {"accuracy_top5": MulticlassAccuracy(count, top_k=5, average="micro")} if count > 5 else {}
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                **top5,
                "f1_macro": MulticlassF1Score(count, average="macro"),
                "mcc": MulticlassMatthewsCorrCoef(count),
                "ece": MulticlassCalibrationError(count, n_bins=15, norm="l1"),
                "confusion": MulticlassConfusionMatrix(count),
            }
        )

    def measure(self, metrics: MetricCollection, outputs: Logits, batch: Batch) -> None:
        """Add a batch to the metrics."""
        metrics.update(deciding(outputs).float(), batch.targets)

    def predictions(self, outputs: Logits, batch: Batch) -> dict[str, Tensor]:
        """Return the target, the most probable class and its probability, each of shape (B,)."""
        confidence, prediction = torch.softmax(deciding(outputs).float(), dim=-1).max(dim=-1)
        return {"target": batch.targets, "prediction": prediction, "confidence": confidence}
