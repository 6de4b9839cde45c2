"""Low-rank updates train beside frozen weights, and the head."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Lt

from frostline.adapter import Adapter
from frostline.freeze.adapting import Adapting


@dataclass(frozen=True, kw_only=True)
class Lora(Adapting):
    """Train low-rank updates of frozen weights, and the head (LoRA, arXiv:2106.09685, section 4.1).

    A layer W gives W x + alpha/rank B A x, with B zero at first; convolutions have a kernel in A and 1x1 in B.

    Attributes:
        rank: Rank of B A.
        alpha: Strength of B A, before the division by the rank.
        dropout: Probability of dropping what goes into A.

    >>> from frostline.depth import Role
    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Lora(), epochs=6, roles=(Role.WEIGHT, Role.BIAS, Role.NORM, Role.ADAPTER)))
    epoch 012345
    stem  oooooo
    body  oooooo
    head  ######
    """

    rank: Annotated[int, Ge(1)] = 8
    alpha: Annotated[float, Gt(0)] = 16.0
    dropout: Annotated[float, Ge(0), Lt(1)] = 0.0

    @property
    def adapter(self) -> Adapter:
        """What is added to the network."""
        return Adapter(
            method="lora",
            stages=self.stages,
            types=self.types,
            rank=self.rank,
            alpha=self.alpha,
            dropout=self.dropout,
        )
