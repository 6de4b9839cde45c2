"""Cross-entropy with smoothed targets and weighted classes."""

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge, Le
from torch import Tensor

from frostline.errors import RequestError, counted


class CrossEntropy:
    """Cross-entropy, as `torch.nn.CrossEntropyLoss` has it, with weights that a config can hold.

    Args:
        label_smoothing: Share of each target that is spread evenly over all classes (Szegedy et al. 2015,
            arXiv:1512.00567, section 7).
        class_weights: How much an example of each class counts, in the order of the classes; None for all alike. The
            mean over a batch is over the weights, so that only their ratios matter; a split's loss is the mean of its
            batches' by their examples.
    """

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        self._smoothing = label_smoothing
        self._weights = class_weights

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss, a scalar.

        Args:
            logits: Shape (B, C) or (B, C, ...).
            targets: Class indices of shape (B,) or (B, ...), or probabilities of the logits' shape.

        Raises:
            RequestError: There are more or fewer weights than classes.
        """
        if self._weights is not None and len(self._weights) != logits.shape[1]:
            given, needed = counted(len(self._weights), "number"), counted(logits.shape[1], "class")
            raise RequestError(
                f"objective.loss.class_weights: there should be a weight for each of {needed}, got {given}"
            )
        if self._weights is None:
            return F.cross_entropy(logits, targets, label_smoothing=self._smoothing)
        weights = logits.new_tensor(self._weights)
        loss = F.cross_entropy(logits, targets, weights, label_smoothing=self._smoothing)
        if targets.is_floating_point():  # there torch divides by the number of examples, not by their weights
            loss = loss / (targets.movedim(1, -1) @ weights).mean()
        return loss
