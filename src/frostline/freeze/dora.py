"""Directions of frozen weights get low-rank updates, their magnitudes train whole, and the head."""

from dataclasses import dataclass, replace

from frostline.adapter import Adapter
from frostline.freeze.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """Train magnitudes and low-rank directions of frozen weights, and the head (DoRA, arXiv:2402.09353, eq. 5).

    A layer W gives m (W + alpha/rank B A) / ||W + alpha/rank B A|| x: a magnitude and a norm for each output. The norm
    is held constant in the gradient (section 4.3).

    >>> from frostline.depth import Role
    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Dora(), epochs=6, roles=(Role.WEIGHT, Role.BIAS, Role.NORM, Role.ADAPTER)))
    epoch 012345
    stem  oooooo
    body  oooooo
    head  ######
    """

    @property
    def adapter(self) -> Adapter:
        """What is added to the network."""
        return replace(super().adapter, method="dora")
