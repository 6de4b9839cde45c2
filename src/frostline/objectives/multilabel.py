"""Any number of labels for each example."""

from collections.abc import Callable, Sequence
from typing import Annotated, Any, ClassVar

import torch
from annotated_types import Ge
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MultilabelExactMatch, MultilabelF1Score
from torchmetrics.functional.classification import binary_average_precision
from torchmetrics.utilities.data import dim_zero_cat

from frostline.batch import Batch
from frostline.objectives.auxiliary import Logits, deciding
from frostline.objectives.binary_cross_entropy import BinaryCrossEntropy
from frostline.objectives.classification import Classification

THRESHOLD = 0.5


class Multilabel(Classification):
    """Tell for each of C classes whether an example has it.

    The network is that of a classifier: one logit for each class, (B, C), and auxiliary ones as in `Classification`.

    Args:
        loss: From logits (B, C) and targets (B, C) between 0 and 1 to a scalar; by default the binary cross-entropy.
        auxiliary_weight: Weight of each auxiliary classifier's loss.
    """

    tasks: ClassVar[tuple[str, ...]] = ("multilabel",)

    def __init__(
        self,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = BinaryCrossEntropy(),  # noqa: B008 (it holds no state)
        auxiliary_weight: Annotated[float, Ge(0)] = 0.4,
    ) -> None:
        super().__init__(loss=loss, auxiliary_weight=auxiliary_weight)

    def metrics(self, classes: Sequence[str]) -> MetricCollection:
        """Return average precision (of each class `ap`; their mean), exact match, and F1 at a probability of 0.5.

        `average_precision` is the mean over the classes that have a positive, known as mAP; a class without one has
        none to be found, and its `ap` is NaN. `exact_match` is the share of examples whose labels are all right.
        """
        count = len(classes)
        return MetricCollection(
            {
                "average_precision": MeanAveragePrecision(),
                "ap": AveragePrecision(),
                "exact_match": MultilabelExactMatch(count, threshold=THRESHOLD),
                "f1_macro": MultilabelF1Score(count, threshold=THRESHOLD, average="macro"),
                "f1_micro": MultilabelF1Score(count, threshold=THRESHOLD, average="micro"),
            },
            compute_groups=False,
        )

    def measure(self, metrics: MetricCollection, outputs: Logits, batch: Batch) -> None:
        """Add a batch to the metrics."""
        metrics.update(_probabilities(outputs), batch.targets.int())

    def predictions(self, outputs: Logits, batch: Batch) -> dict[str, Any]:
        """Return of each example the classes of a probability above one half, and the probabilities of all."""
        probabilities = _probabilities(outputs)
        return {
            "target": _places(batch.targets > THRESHOLD),
            "prediction": _places(probabilities > THRESHOLD),
            "probabilities": [[round(each, 6) for each in row] for row in probabilities.tolist()],
        }


class AveragePrecision(Metric):
    """Average precision of each class, (C,); NaN of a class without positives, where torchmetrics warns and says 0."""

    full_state_update = False
    scores: list[Tensor]
    targets: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("targets", default=[], dist_reduce_fx="cat")

    def update(self, scores: Tensor, targets: Tensor) -> None:
        """Add scores (B, C) and targets (B, C) of 0 and 1."""
        self.scores.append(scores)
        self.targets.append(targets)

    def compute(self) -> Tensor:
        """Return the average precision of each class, over all examples."""
        scores, targets = dim_zero_cat(self.scores), dim_zero_cat(self.targets)
        none = scores.new_tensor(torch.nan)
        pairs = zip(scores.unbind(1), targets.unbind(1), strict=True)
        return torch.stack([binary_average_precision(s, t) if t.any() else none for s, t in pairs])


class MeanAveragePrecision(AveragePrecision):
    """The mean of `AveragePrecision` over the classes that have positives, a scalar."""

    higher_is_better = True

    def compute(self) -> Tensor:
        """Return the mean; NaN where no class has a positive."""
        return super().compute().nanmean()


def _probabilities(outputs: Logits) -> Tensor:
    return deciding(outputs).float().sigmoid()


def _places(flags: Tensor) -> list[list[int]]:
    return [row.nonzero().flatten().tolist() for row in flags]
