"""Everything trains but the first layer."""

from dataclasses import dataclass

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class FreezeEmbed(FreezeStrategy):
    """Train everything but the stem, the embedding layer (Kumar et al. 2024, arXiv:2211.09359).

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(FreezeEmbed(), epochs=6))
    epoch 012345
    stem  ......
    body  ######
    head  ######
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 above the stem; a network that is all head trains."""
        return float(stage.index > 0 or stage.from_head == 0)
