"""What a data loader hands to an objective."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """Some examples of one split.

    Attributes:
        inputs: What the network takes; images are float tensors of shape (B, C, H, W), normalised.
        targets: What the objective compares with; class indices are int64 of shape (B,).
        places: The examples' places in their split, int64 of shape (B,).
    """

    inputs: Any
    targets: Any
    places: Tensor

    def examples(self) -> "Iterator[Batch]":
        """Yield each example as a batch of one."""
        for i in range(len(self.places)):
            yield Batch(self.inputs[i : i + 1], self.targets[i : i + 1], self.places[i : i + 1])
