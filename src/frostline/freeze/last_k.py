"""The stages nearest the output train, and the head."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress, beyond


@dataclass(frozen=True, kw_only=True)
class LastK(FreezeStrategy):
    """Train the last `k` stages below the head, and the head (Lee, Tang and Lin 2019, arXiv:1911.03090).

    Attributes:
        k: Stages that train besides the head; 0 is the linear probe.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(LastK(k=1), epochs=6))
    epoch 012345
    stem  ......
    body  ######
    head  ######
    """

    k: Annotated[int, Ge(0)]

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the head and the k stages below it."""
        return float(stage.from_head <= self.k)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse more stages than the network has."""
        return beyond(self.k, outline)
