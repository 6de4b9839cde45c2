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
        ratio: How many times faster a stage learns than the one below it, the paper's discriminative fine-tuning
            (section 3.2, where it is 2.6); 1 for equal rates.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Gradual(every=2), epochs=6))
    epoch 012345
    stem  ....++
    body  ..++++
    head  ######
    """

    every: Annotated[int, Ge(1)] = 1
    ratio: Annotated[float, Ge(1)] = 2.6

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the stage's rate once the thaw has come down to it."""
        return self.ratio**-stage.from_head * (stage.from_head <= progress.epoch // self.every)
