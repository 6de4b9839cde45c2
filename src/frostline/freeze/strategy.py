"""What a freeze strategy is: a pure function of depth, role and progress that never sees a module."""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from frostline.depth import Depth, Role


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come: `epoch` (from 0) of `epochs`."""

    epoch: int
    epochs: int


@runtime_checkable
class Strategy(Protocol):
    """Says how fast each parameter learns at each moment; 0 is frozen."""

    @property
    def norm(self) -> "NormPolicy":
        """What happens to normalisation layers beyond their parameters' learning rate."""

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the factor on the learning rate of this role's parameters in this stage, now; 0 freezes them."""


NormStats = Literal["follow", "frozen", "running"]
NormAffine = Literal["follow", "frozen", "train"]


@dataclass(frozen=True, kw_only=True)
class NormPolicy:
    """What normalisation layers with stored statistics do."""

    stats: NormStats
    affine: NormAffine


@dataclass(frozen=True, kw_only=True)
class FreezeStrategy:
    """The knobs that every strategy shares.

    Attributes:
        norm_stats: Which statistics batch normalisation uses in training: `follow` the stage (stored ones where it is
            frozen, the batch's where it trains), `frozen` stored ones everywhere, `running` the batch's everywhere.
        norm_affine: Whether scale and shift of normalisation layers `follow` the strategy, stay `frozen` everywhere,
            or `train` everywhere.
    """

    norm_stats: NormStats = "follow"
    norm_affine: NormAffine = "follow"

    @property
    def norm(self) -> NormPolicy:
        """The two norm knobs as one policy."""
        return NormPolicy(stats=self.norm_stats, affine=self.norm_affine)
