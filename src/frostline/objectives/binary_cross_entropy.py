"""Binary cross-entropy of each class by itself, with smoothed targets and weighted positives."""

from collections.abc import Sequence
from typing import Annotated

import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge, Le
from torch import Tensor

from frostline.errors import RequestError, counted


class BinaryCrossEntropy:
    """Binary cross-entropy, as `torch.nn.BCEWithLogitsLoss` has it, with weights that a config can hold.

    Args:
        label_smoothing: Share of each target that is moved to one half: 1 becomes 1 - s/2 and 0 becomes s/2.
        pos_weight: How much a positive of each class counts beside a negative, in the order of the classes; None for
            as much. A class with few positives is weighted up by a number above 1.
    """

    def __init__(
        self,
        *,
        label_smoothing: Annotated[float, Ge(0), Le(1)] = 0.0,
        pos_weight: Sequence[float] | None = None,
    ) -> None:
        self._smoothing = label_smoothing
        self._weights = pos_weight

    def __call__(self, logits: Tensor, targets: Tensor) -> Tensor:
        """Return the mean loss over examples and classes, a scalar.

        Args:
            logits: Shape (B, C).
            targets: Shares between 0 and 1, of the same shape.

        Raises:
            RequestError: There are more or fewer weights than classes.
        """
        if self._weights is not None and len(self._weights) != logits.shape[1]:
            given, needed = counted(len(self._weights), "number"), counted(logits.shape[1], "class")
            raise RequestError(f"objective.loss.pos_weight: there should be a weight for each of {needed}, got {given}")
        weights = None if self._weights is None else logits.new_tensor(self._weights)
        smoothed = targets.to(logits.dtype) * (1 - self._smoothing) + self._smoothing / 2
        return F.binary_cross_entropy_with_logits(logits, smoothed, pos_weight=weights)
