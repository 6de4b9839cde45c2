"""Stages thaw one after another, from the head down."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Gradual(FreezeStrategy):
    """Thaw one more stage every `every` epochs, from the head down (ULMFiT, arXiv:1801.06146, section 3.3).

    Attributes:
        every: Epochs from one thaw to the next.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Gradual(every=2), epochs=6))
    epoch 012345
    stem  ....##
    body  ..####
    head  ######
    """

    every: Annotated[int, Ge(1)] = 1

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 once the thaw has come down to this stage."""
        return float(stage.from_head <= progress.epoch // self.every)
