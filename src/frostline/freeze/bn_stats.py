"""Nothing trains; normalisation layers see what the new data look like."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress, Reestimation


@dataclass(frozen=True, kw_only=True)
class BnStats(FreezeStrategy):
    """Re-estimate statistics of normalisation layers, without gradients (Schneider et al. 2020, arXiv:2006.16971, 3).

    The statistics are those of the training split, blended with the old ones. Every parameter stays as it was carried
    in, so the head must fit already. Where a strategy lets batch normalisation run on the new data, this is the arm
    that tells how much of its gain needed no training.

    Attributes:
        pseudo_count: Examples that the old statistics count for; 0 is those of the new data alone.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(BnStats(), epochs=6))
    epoch 012345
    stem  ......
    body  ......
    head  ......
    """

    pseudo_count: Annotated[float, Ge(0)] = 16.0

    @property
    def instead(self) -> Reestimation:
        """The pseudo-count."""
        return Reestimation(pseudo_count=self.pseudo_count)

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 0."""
        return 0.0
