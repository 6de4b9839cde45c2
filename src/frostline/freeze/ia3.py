"""One factor for each feature of the adapted layers trains, and the head."""

from dataclasses import dataclass

from frostline.adapter import Adapter
from frostline.freeze.adapting import Adapting


@dataclass(frozen=True, kw_only=True)
class Ia3(Adapting):
    """Train a factor for each feature of frozen layers, and the head ((IA)^3, arXiv:2205.05638, section 3.3).

    A layer gives l * (W x + b), with l one at first. The paper rescales keys, values and the inner activations of
    feed-forward blocks; here every chosen layer is rescaled.

    Attributes:
        feedforward: Rescale what goes into a layer, W (l * x) + b, as the paper does behind a nonlinearity.

    >>> from frostline.depth import Role
    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Ia3(), epochs=6, roles=(Role.WEIGHT, Role.BIAS, Role.NORM, Role.ADAPTER)))
    epoch 012345
    stem  oooooo
    body  oooooo
    head  ######
    """

    feedforward: bool = False

    @property
    def adapter(self) -> Adapter:
        """What is added to the network."""
        return Adapter(method="ia3", stages=self.stages, types=self.types, feedforward=self.feedforward)
