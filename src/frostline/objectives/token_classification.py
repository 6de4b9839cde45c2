"""One label for each token."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassConfusionMatrix,
    MulticlassF1Score,
    MulticlassMatthewsCorrCoef,
)

from frostline.batch import NO_LABEL, Batch
from frostline.objectives.cross_entropy import CrossEntropy
from frostline.objectives.objective import Objective


class TokenClassification(Objective):
    """Classify each labelled token into one of C classes (BERT, arXiv:1810.04805, section 5.3).

    The network gives logits of shape (B, L, C). Loss and metrics are means over labelled tokens.

    Args:
        loss: From logits (M, C) and classes (M,) to a scalar; by default the cross-entropy.
    """

    tasks: ClassVar[tuple[str, ...]] = ("token_classification",)

    def __init__(self, *, loss: Callable[[Tensor, Tensor], Tensor] = CrossEntropy()) -> None:  # noqa: B008 (it holds no state)
        self._loss = loss

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Return the mean loss over labelled tokens, a scalar; 0 of a batch that has none."""
        labelled = batch.targets != NO_LABEL
        if not labelled.any():
            return outputs.sum() * 0  # a mean over no token would be NaN
        return self._loss(outputs[labelled], batch.targets[labelled])

    def weight(self, outputs: Tensor, batch: Batch) -> int:
        """Return how many tokens have labels."""
        return int((batch.targets != NO_LABEL).sum())

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return accuracy, macro-F1, Matthews and the F1 of each class, all over labelled tokens.

        A class that is neither labelled nor predicted has no F1 (NaN), and no part in the mean.
        """
        count = len(classes)
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "f1_macro": MulticlassF1Score(count, average="macro"),
                "mcc": MulticlassMatthewsCorrCoef(count),
                "f1": ClassF1(count),
            }
        )

    def measure(self, metrics: MetricCollection, outputs: Tensor, batch: Batch) -> None:
        """Add a batch to the metrics."""
        labelled = batch.targets != NO_LABEL
        metrics.update(outputs[labelled].float(), batch.targets[labelled])

    def predictions(self, outputs: Tensor, batch: Batch) -> dict[str, list[str]]:
        """Return of each example the targets and the most probable classes of its labelled tokens, as texts."""
        columns = {"target": batch.targets, "prediction": outputs.argmax(dim=-1)}
        return {name: _spelt(column, batch.targets != NO_LABEL) for name, column in columns.items()}


class ClassF1(MulticlassConfusionMatrix):
    """F1 of each class, (C,); NaN of one that is neither labelled nor predicted."""

    def compute(self) -> Tensor:
        """Return the quotient of each class."""
        confusion: Any = super().compute()
        right: Tensor = confusion.diag().float()
        either: Tensor = confusion.sum(dim=0) + confusion.sum(dim=1)
        return 2 * right / either


def _spelt(classes: Tensor, labelled: Tensor) -> list[str]:
    rows = zip(classes, labelled, strict=True)
    return [" ".join(map(str, torch.masked_select(row, which).tolist())) for row, which in rows]
