"""What every regularizer offers."""

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

from frostline.nn.stages import Stage


class Regularizer(Protocol):
    """A penalty on the parameters; a module, so that what it remembers is moved and saved with the network."""

    def start(self, stages: Sequence[Stage]) -> None:
        """Remember the starting point, once the weights have been carried in."""

    def __call__(self) -> Tensor:
        """Return the penalty now, a scalar."""
