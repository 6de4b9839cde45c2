"""A class for every pixel."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Annotated, Any, ClassVar

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge
from torch import Tensor
from torchmetrics import MetricCollection
from torchmetrics.classification import MulticlassAccuracy, MulticlassConfusionMatrix, MulticlassJaccardIndex

from frostline.batch import NO_LABEL, Batch
from frostline.objectives.auxiliary import Logits, deciding, total
from frostline.objectives.cross_entropy import CrossEntropy
from frostline.objectives.objective import Objective


class Segmentation(Objective):
    """Classify every pixel into one of C classes; pixels of label -100 count for nothing.

    The network gives logits of shape (B, C, H, W), or while training a tuple of them with those of auxiliary heads,
    whose losses are added with a weight (torchvision trains FCN and DeepLab with 0.5).

    Args:
        loss: From logits (B, C, H, W) and labels (B, H, W) to a scalar, the mean over the pixels that count; by default
            the cross-entropy.
        dice: Weight of the Dice loss that is added; it is one number for a batch, so that a split's is a mean of them.
        auxiliary_weight: Weight of each auxiliary head's loss.
    """

    tasks: ClassVar[tuple[str, ...]] = ("segmentation",)

    def __init__(
        self,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = CrossEntropy(),  # noqa: B008 (it holds no state)
        dice: Annotated[float, Ge(0)] = 0.0,
        auxiliary_weight: Annotated[float, Ge(0)] = 0.5,
    ) -> None:
        self._loss = loss
        self._dice = dice
        self._auxiliary_weight = auxiliary_weight

    def loss(self, outputs: Logits, batch: Batch) -> Tensor:
        """Return the batch's mean loss, a scalar; 0 of a batch in which no pixel counts."""
        return total(partial(self._of, batch.targets), outputs, weight=self._auxiliary_weight)

    def weight(self, outputs: Logits, batch: Batch) -> int:
        """Return how many pixels count: the loss of a split is a mean over its pixels, whatever the batches."""
        return int((batch.targets != NO_LABEL).sum())

    def _of(self, labels: Tensor, logits: Tensor) -> Tensor:
        if not (labels != NO_LABEL).any():
            return logits.sum() * 0  # a mean over no pixel would be NaN
        loss = self._loss(logits, labels)
        return loss + self._dice * dice_loss(logits, labels) if self._dice else loss

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return mean intersection over union, that of each class, the share of right pixels, and confusion.

        Intersections and unions are summed over all pixels of the split. The mean is over the classes that are there,
        in labels or predictions; what is not there has no number (NaN) of its own.
        """
        count = len(classes)
        return MetricCollection(
            {
                "miou": MulticlassJaccardIndex(count, average="macro", ignore_index=NO_LABEL),
                "iou": ClassIou(count, ignore_index=NO_LABEL),
                "pixel_accuracy": MulticlassAccuracy(count, average="micro", ignore_index=NO_LABEL),
                "confusion": MulticlassConfusionMatrix(count, ignore_index=NO_LABEL),
            }
        )

    def measure(self, metrics: MetricCollection, outputs: Logits, batch: Batch) -> None:
        """Add a batch to the metrics."""
        metrics.update(_predicted(outputs), batch.targets)

    def predictions(self, outputs: Logits, batch: Batch) -> dict[str, Tensor]:
        """Return each image's share of right pixels and mean intersection over union, NaN where no pixel counts."""
        pairs = list(zip(_predicted(outputs), batch.targets, strict=True))
        counted = [(predicted[labels != NO_LABEL], labels[labels != NO_LABEL]) for predicted, labels in pairs]
        return {
            "pixel_accuracy": torch.stack([(predicted == labels).float().mean() for predicted, labels in counted]),
            "miou": torch.stack([_mean_iou(predicted, labels) for predicted, labels in counted]),
        }


class ClassIou(MulticlassConfusionMatrix):
    """Intersection over union of each class, (C,); NaN of one that is neither labelled nor predicted."""

    def compute(self) -> Tensor:
        """Return the quotient of each class."""
        confusion: Any = super().compute()
        right: Tensor = confusion.diag().float()
        either: Tensor = confusion.sum(dim=0) + confusion.sum(dim=1)
        return right / (either - right)


def dice_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return one minus the mean Dice coefficient of the classes in these labels, a scalar in [0, 1].

    The coefficient of a class is 2 |P T| / (|P| + |T|), with probabilities P and labels T summed over all pixels of the
    batch that count (Sudre et al. 2017, arXiv:1707.03237, section 2, without weights).

    Args:
        logits: Shape (B, C, H, W).
        labels: Class indices of shape (B, H, W), NO_LABEL where a pixel counts for nothing; some count.
    """
    counted = labels != NO_LABEL
    probabilities = logits.float().softmax(dim=1).movedim(1, -1)[counted]
    truth = F.one_hot(labels[counted], logits.shape[1]).to(probabilities)
    there = truth.sum(dim=0) > 0
    coefficients = 2 * (probabilities * truth).sum(dim=0) / (probabilities + truth).sum(dim=0)
    return 1 - coefficients[there].mean()


def _predicted(outputs: Logits) -> Tensor:
    return deciding(outputs).argmax(dim=1)


def _mean_iou(predicted: Tensor, labels: Tensor) -> Tensor:
    """Return the mean over the classes that are there in one image; both of shape (N,)."""
    there = torch.unique(torch.cat([predicted, labels]))
    each = [((predicted == c) & (labels == c)).sum() / ((predicted == c) | (labels == c)).sum() for c in there]
    return torch.stack(each).mean() if each else torch.tensor(torch.nan, device=labels.device)
