"""Normalisation layers train, and the head."""

from dataclasses import dataclass

from frostline.depth import NORMS, Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Norm(FreezeStrategy):
    """Train scale and shift of normalisation layers, and the head (Frankle et al. 2021, arXiv:2003.00152).

    Their statistics follow them; `norm_stats=frozen` holds those where they were.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Norm(), epochs=6))
    epoch 012345
    stem  oooooo
    body  oooooo
    head  ######
    """

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for normalisation layers and for the head."""
        return float(stage.from_head == 0 or role in NORMS)
