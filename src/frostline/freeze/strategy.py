"""What a freeze strategy is: a pure function of depth, role and progress that never sees a module."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from frostline.adapter import Adapter
from frostline.depth import NORMS, Depth, Role

Clock = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come, counted from 0: in `epoch` of `epochs`, after `step` of `steps` optimizer steps.

    A strategy of the clock `epoch` is asked at the first step of each epoch only.
    """

    epoch: int
    epochs: int
    step: int
    steps: int

    @property
    def done(self) -> float:
        """The share of the run's optimizer steps that are behind, 0 to 1."""
        return self.step / max(1, self.steps)


class Strategy(Protocol):
    """Says how fast each parameter learns at each moment; 0 is frozen."""

    @property
    def clock(self) -> Clock:
        """How often the answer can change: from epoch to epoch, or from optimizer step to optimizer step."""

    @property
    def norm_stats(self) -> Literal["follow", "frozen", "running"]:
        """Which statistics batch normalisation uses while training."""

    @property
    def norm_affine(self) -> Literal["follow", "frozen", "train"]:
        """Whether scale and shift of normalisation layers obey the strategy."""

    @property
    def adapter(self) -> Adapter | None:
        """What this strategy adds to the network before it trains, if anything."""

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the factor on the learning rate of this role's parameters in this stage, now; 0 freezes them."""

    def problems(self, stages: Sequence[Depth], epochs: int) -> list[str]:
        """Return what this strategy asks of a network or a run that does not have it, as `key: sentence`."""


@dataclass(frozen=True, kw_only=True)
class FreezeStrategy:
    """The two knobs that every strategy shares: what normalisation layers do.

    Attributes:
        norm_stats: Which statistics a normalisation layer uses while training: `follow` its own parameters (the stored
            statistics where they are frozen, the batch's where they train), `frozen` the stored ones everywhere,
            `running` the batch's everywhere, frozen stages included.
        norm_affine: Whether its scale and shift `follow` the strategy, stay `frozen` everywhere, or `train` everywhere.
    """

    clock: ClassVar[Clock] = "epoch"

    norm_stats: Literal["follow", "frozen", "running"] = "follow"
    norm_affine: Literal["follow", "frozen", "train"] = "follow"

    @property
    def adapter(self) -> Adapter | None:
        """What this strategy adds to the network before it trains; nothing, by default."""
        return None

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the factor on the learning rate; every strategy says its own."""
        raise NotImplementedError

    def problems(self, stages: Sequence[Depth], epochs: int) -> list[str]:
        """Return what this strategy asks of a network or a run that does not have it; nothing, by default."""
        del stages, epochs
        return []


def beyond(k: int, stages: Sequence[Depth]) -> list[str]:
    """Refuse a number of stages, besides the head, that is more than a network has."""
    below = len(stages) - 1
    return [f"freeze.k: the network has {below} stages below its head, got {k}"] if k > below else []


def with_norm_policy(strategy: Strategy, scale: float, role: Role) -> float:
    """Return a strategy's factor with its policy for normalisation layers applied."""
    if role in NORMS and strategy.norm_affine != "follow":
        return 0.0 if strategy.norm_affine == "frozen" else scale or 1.0
    return scale
