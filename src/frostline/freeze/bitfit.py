"""Biases train, and the head."""

from dataclasses import dataclass

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class BitFit(FreezeStrategy):
    """Train all biases, the shifts of normalisation layers among them, and the head (BitFit, arXiv:2106.10199).

    In a network whose convolutions have no biases this is the shifts and the head. Statistics of a layer whose shift
    trains are the batch's; `norm_stats=frozen` holds them where they were.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(BitFit(), epochs=6))
    epoch 012345
    stem  oooooo
    body  oooooo
    head  ######
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for biases and for the head."""
        return float(stage.from_head == 0 or role in (Role.BIAS, Role.NORM_BIAS))
