"""What strategies that add parameters share: the network stays as it is, the added parameters and the head train."""

from collections.abc import Sequence
from dataclasses import dataclass

from frostline.adapter import Types
from frostline.depth import Depth, Outline, Role
from frostline.freeze.strategy import FreezeStrategy, Progress
from frostline.nearest import did_you_mean


@dataclass(frozen=True, kw_only=True)
class Adapting(FreezeStrategy):
    """Train what is added below the head, and the head whole.

    Attributes:
        stages: Names of the stages to adapt, as `frostline plan` prints them; None is all below the head.
        types: The kinds of layers to adapt.
    """

    stages: Sequence[str] | None = None
    types: Types = "both"

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for added parameters and for the head."""
        return float(stage.from_head == 0 or role is Role.ADAPTER)

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse a name that no stage below the head has, and none at all."""
        if self.stages is None:
            return []
        if not self.stages:
            return ["freeze.stages: name a stage to adapt, or leave it out to adapt all below the head"]
        below = [stage.name for stage in outline.stages if stage.from_head]
        return [_refusal(name, below) for name in self.stages if name not in below]


def _refusal(name: str, below: Sequence[str]) -> str:
    if name == "head":
        return "freeze.stages: the head trains whole and is not adapted; name stages below it"
    return f"freeze.stages: the network has no stage '{name}'; {did_you_mean(name, below)}"
