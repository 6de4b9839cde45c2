"""What every regularizer offers, and what it may look at when it starts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn

from frostline.batch import Batch
from frostline.nn.stages import Stage


@dataclass(frozen=True, kw_only=True)
class Start:
    """A run before its first step, with the weights carried in.

    Attributes:
        network: The network.
        stages: Its stages.
        batches: Gives the training examples in batches, as evaluation shows them.
        loss: The objective: from the network's outputs and a batch to a scalar.
    """

    network: nn.Module
    stages: Sequence[Stage]
    batches: Callable[[], Iterable[Batch]]
    loss: Callable[[Any, Batch], Tensor]


class Regularizer(Protocol):
    """A penalty on parameters or features; a module, so that what it remembers is moved and saved with the network."""

    def start(self, start: Start) -> None:
        """Remember the starting point."""

    def __call__(self) -> Tensor:
        """Return the penalty now, a scalar; where it looks at features, at those of the pass just made."""
