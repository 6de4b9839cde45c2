"""A growing share of the stages freezes, from the input up."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Le, Lt

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class LinearFreeze(FreezeStrategy):
    """Freeze a share of the stages that grows linearly, from the input up; the head never (Composer, LayerFreezing).

    Its authors found no evidence that this improves the trade of speed against quality (the method card of that name
    in mosaicml/composer); it stands here for comparison.

    Attributes:
        start: Share of the run after which freezing begins.
        level: Share of the stages below the head that is frozen at the end.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(LinearFreeze(), epochs=8))
    epoch 01234567
    stem  ######..
    body  ########
    head  ########
    """

    start: Annotated[float, Ge(0), Lt(1)] = 0.5
    level: Annotated[float, Ge(0), Le(1)] = 1.0

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 above the frozen share; asked at the start of each epoch."""
        share = self.level * max(0.0, progress.done - self.start) / (1 - self.start)
        return float(stage.index >= int(share * (stage.count - 1)))
