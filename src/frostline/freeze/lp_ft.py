"""First the head, then everything."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Gt, Lt

from frostline.depth import Depth, Role
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class LpFt(FreezeStrategy):
    """Probe, then fine-tune: fit the head on fixed features, then train all (Kumar et al. 2022, arXiv:2202.10054, 3.4).

    Both parts share the run's budget of epochs, half each as published, so that the comparison with `full` is fair.

    Attributes:
        probe: Share of the epochs in which the head trains alone.
        rate: Factor on the learning rate once everything trains; the published recipe tunes it apart from the probe's.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(LpFt(), epochs=6))
    epoch 012345
    stem  ...###
    body  ...###
    head  ######
    """

    probe: Annotated[float, Gt(0), Lt(1)] = 0.5
    rate: Annotated[float, Gt(0)] = 1.0

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the head alone while probing, then `rate` for everything."""
        if progress.epoch < max(1, round(self.probe * progress.epochs)):
            return float(stage.from_head == 0)
        return self.rate
