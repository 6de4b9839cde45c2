"""The deeper below the head, the slower."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Le

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class LayerDecay(FreezeStrategy):
    """Train every stage, each at `decay` times the rate of the one above it (as BEiT does, arXiv:2106.08254).

    The head learns at the full rate and the stem of a network of L stages between them at decay^(L+1).

    Attributes:
        decay: Factor from a stage to the one below it; timm's default is 0.75.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(LayerDecay(), epochs=6))
    epoch 012345
    stem  ++++++
    body  ++++++
    head  ######
    """

    decay: Annotated[float, Gt(0), Le(1)] = 0.75

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the decay to the power of the stages between this one and the output."""
        return self.decay**stage.from_head
