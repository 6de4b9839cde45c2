"""Only the head trains; the rest is a fixed feature extractor."""

from dataclasses import dataclass

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Head(FreezeStrategy):
    """Train the head alone, on fixed features: the linear probe.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Head(), epochs=6))
    epoch 012345
    stem  ......
    body  ......
    head  ######
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the head, 0 for what lies below it."""
        return float(stage.from_head == 0)
