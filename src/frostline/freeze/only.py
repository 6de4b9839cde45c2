"""The named stages train, and nothing else."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from annotated_types import MinLen

from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress
from frostline.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Only(FreezeStrategy):
    """Train the named stages alone: "surgical" fine-tuning (Lee et al. 2023, arXiv:2210.11466, section 3).

    The head trains only if it is named; a head that is new must be.

    Attributes:
        stages: Names of stages, as `frostline plan` prints them.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(Only(stages=["stem"]), epochs=6))
    epoch 012345
    stem  ######
    body  ......
    head  ......
    """

    stages: Annotated[Sequence[str], MinLen(1)]

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for the named stages."""
        return float(stage.name in self.stages)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse a name that no stage has."""
        names = [stage.name for stage in outline.stages]
        return [
            f"freeze.stages: the network has no stage '{name}'; {did_you_mean(name, names)}"
            for name in self.stages
            if name not in names
        ]
