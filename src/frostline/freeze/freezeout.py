"""Each stage anneals to zero and freezes, the earliest first."""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

from annotated_types import Ge, Lt

from frostline.depth import Depth, Role
from frostline.freeze.strategy import Clock, FreezeStrategy, Progress

_POWERS = {"linear": 1, "squared": 2, "cubic": 3}


@dataclass(frozen=True, kw_only=True)
class FreezeOut(FreezeStrategy):
    """Anneal each stage's rate along half a cosine to zero, and freeze it (Brock et al. 2017, arXiv:1706.04983).

    The earlier the stage, the sooner. Stage i of n ends at t_i = f(t0 + (1 - t0) i / n) of the run. The
    curve is part of the method: use it with `scheduler=constant`. It was meant for training from scratch.

    Attributes:
        t0: Where the first stage freezes, as a share of the run before `shape` is applied.
        shape: f: linear, squared or cubic.
        scaled: Start stage i at 1 / t_i, so that every stage covers the same distance.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(FreezeOut(), epochs=10))
    epoch 0123456789
    stem  ###+++....
    body  ###+++++..
    head  #+++++++++
    """

    clock: ClassVar[Clock] = "step"

    t0: Annotated[float, Ge(0), Lt(1)] = 0.8
    shape: Literal["linear", "squared", "cubic"] = "cubic"
    scaled: bool = True

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the stage's place on its curve; 0 once it has come to the end."""
        depth = stage.index / max(1, stage.count - 1) if stage.count > 1 else 1.0
        end = (self.t0 + (1 - self.t0) * depth) ** _POWERS[self.shape]
        if progress.done >= end:
            return 0.0
        height = 1 / end if self.scaled else 1.0
        return height * 0.5 * (1 + math.cos(math.pi * progress.done / end))
