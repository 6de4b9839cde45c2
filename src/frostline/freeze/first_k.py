"""The stages nearest the input train, and the head."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress, beyond


@dataclass(frozen=True, kw_only=True)
class FirstK(FreezeStrategy):
    """Train the first `k` stages, where a shift of the input is met, and the head (after arXiv:2210.11466).

    "Surgical" fine-tuning of early blocks (Lee et al. 2023, arXiv:2210.11466, section 3) is this with the head frozen
    too: `only` with the names of the stages.

    Attributes:
        k: Stages from the input that train besides the head.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(FirstK(k=1), epochs=6))
    epoch 012345
    stem  ######
    body  ......
    head  ######
    """

    k: Annotated[int, Ge(0)]

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the first k stages and the head."""
        return float(stage.index < self.k or stage.from_head == 0)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse more stages than the network has."""
        return beyond(self.k, outline)
