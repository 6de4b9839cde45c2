"""What a freeze strategy is: a pure function of depth, role and progress that never sees a module."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from frostline.depth import Depth, Role


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come: in `epoch` (counted from 0) of `epochs`."""

    epoch: int
    epochs: int


class Strategy(Protocol):
    """Says how fast each parameter learns at each moment; 0 is frozen."""

    @property
    def norm_stats(self) -> Literal["follow", "frozen", "running"]:
        """Which statistics batch normalisation uses while training."""

    @property
    def norm_affine(self) -> Literal["follow", "frozen", "train"]:
        """Whether scale and shift of normalisation layers obey the strategy."""

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the factor on the learning rate of this role's parameters in this stage, now; 0 freezes them."""

    def problems(self, stages: Sequence[Depth]) -> list[str]:
        """Return what this strategy asks of a network that has not these stages, as `key: sentence`."""


@dataclass(frozen=True, kw_only=True)
class FreezeStrategy:
    """The two knobs that every strategy shares: what normalisation layers do.

    Attributes:
        norm_stats: Which statistics a normalisation layer uses while training: `follow` its own parameters (the stored
            statistics where they are frozen, the batch's where they train), `frozen` the stored ones everywhere,
            `running` the batch's everywhere, frozen stages included.
        norm_affine: Whether its scale and shift `follow` the strategy, stay `frozen` everywhere, or `train` everywhere.
    """

    norm_stats: Literal["follow", "frozen", "running"] = "follow"
    norm_affine: Literal["follow", "frozen", "train"] = "follow"

    def problems(self, stages: Sequence[Depth]) -> list[str]:
        """Return what this strategy asks of a network that has not these stages; nothing, unless a subclass says so."""
        del stages
        return []


def effective_scale(strategy: Strategy, stage: Depth, role: Role, progress: Progress) -> float:
    """Return the strategy's scale with its policy for normalisation layers applied."""
    scale = strategy.scale(stage, role, progress)
    if role is Role.NORM and strategy.norm_affine != "follow":
        return 0.0 if strategy.norm_affine == "frozen" else scale or 1.0
    return scale
