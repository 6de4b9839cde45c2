"""Everything trains, from the first step to the last."""

from dataclasses import dataclass

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Full(FreezeStrategy):
    """Train every stage all the time: fine-tuning as it is usually meant, and the reference of most comparisons.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Full(), epochs=6))
    epoch 012345
    stem  ######
    body  ######
    head  ######
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for everything."""
        return 1.0
