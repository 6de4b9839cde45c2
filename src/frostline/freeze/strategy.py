"""What a freeze strategy is: a pure function of depth, role and progress that never sees a module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from frostline.adapter import Adapter
from frostline.depth import NORMS, Depth, Grain, Outline, Place, Role
from frostline.errors import counted

Clock = Literal["epoch", "step"]


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a strategy decided from signals of training; kept in the checkpoint and in the record.

    Attributes:
        step: The optimizer step before which it was taken.
        signals: What was measured, a number for each tensor by name.
        scales: The factor on the learning rate of each tensor from then on, by name; 0 is frozen.
    """

    step: int
    signals: Mapping[str, float]
    scales: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far training has come, counted from 0: in `epoch` of `epochs`, after `step` of `steps` optimizer steps.

    A strategy of the clock `epoch` is asked at the first step of each epoch only.

    Attributes:
        decisions: What the strategy has decided until now, in order.
        monitored: The metric that the strategy asked for, by epoch, as validated until now.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    decisions: tuple[Decision, ...] = ()
    monitored: Mapping[int, float] = field(default_factory=dict)

    @property
    def done(self) -> float:
        """The share of the run's optimizer steps that are behind, 0 to 1."""
        return self.step / max(1, self.steps)


@dataclass(frozen=True, kw_only=True)
class Reestimation:
    """In place of training, the statistics of normalisation layers are taken anew.

    Attributes:
        pseudo_count: Examples that the stored statistics count for.
    """

    name: ClassVar[str] = "re-estimation"
    pseudo_count: float

    def __str__(self) -> str:
        """Say what happens."""
        return (
            "nothing trains; the statistics of normalisation layers are re-estimated on the training split, "
            f"where the stored ones count for {self.pseudo_count:g} examples"
        )


@dataclass(frozen=True, kw_only=True)
class Solution:
    """In place of training, the head is solved in closed form.

    Attributes:
        strengths: Of the penalty on its weights; val chooses.
    """

    name: ClassVar[str] = "solution"
    strengths: Sequence[float]

    def __str__(self) -> str:
        """Say what happens."""
        strengths = ", ".join(f"{strength:g}" for strength in self.strengths)
        return (
            "nothing trains by steps; the head is solved by ridge regression on the features of the training split, "
            f"and the first metric of val chooses among the strengths {strengths}"
        )


class Strategy(Protocol):
    """Says how fast each parameter learns at each moment; 0 is frozen."""

    @property
    def clock(self) -> Clock:
        """How often the answer can change: from epoch to epoch, or from optimizer step to optimizer step."""

    @property
    def grain(self) -> Grain:
        """What one answer is for: all parameters of a role in a stage, or each tensor by itself."""

    @property
    def monitor(self) -> str | None:
        """The metric of validation that the answer depends on, or None."""

    @property
    def instead(self) -> Reestimation | Solution | None:
        """What happens in place of training by steps, if anything."""

    @property
    def norm_stats(self) -> Literal["follow", "frozen", "running"]:
        """Which statistics batch normalisation uses while training."""

    @property
    def norm_affine(self) -> Literal["follow", "frozen", "train"]:
        """Whether scale and shift of normalisation layers obey the strategy."""

    @property
    def adapter(self) -> Adapter | None:
        """What this strategy adds to the network before it trains, if anything."""

    @property
    def announcements(self) -> Sequence[str]:
        """What the answer waits for, a sentence each, where training decides."""

    @property
    def content(self) -> str:
        """What the answer depends on that the config may not show, such as a file's text; empty for nothing."""

    def scale_of(self, place: Place, progress: Progress) -> float:
        """Return the factor on the learning rate of what is in this place, now; 0 freezes it."""

    def known(self, progress: Progress) -> bool:
        """Tell whether the answer is settled, or waits for something that training has still to show."""

    def problems(self, outline: Outline, epochs: int) -> list[str]:
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
    grain: ClassVar[Grain] = "role"

    norm_stats: Literal["follow", "frozen", "running"] = "follow"
    norm_affine: Literal["follow", "frozen", "train"] = "follow"

    @property
    def adapter(self) -> Adapter | None:
        """What this strategy adds to the network before it trains; nothing, by default."""
        return None

    @property
    def monitor(self) -> str | None:
        """No metric, by default."""
        return None

    @property
    def announcements(self) -> Sequence[str]:
        """Nothing, by default."""
        return []

    @property
    def content(self) -> str:
        """Nothing, by default: the config shows all."""
        return ""

    @property
    def instead(self) -> Reestimation | Solution | None:
        """Nothing, by default: this strategy trains."""
        return None

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return the factor on the learning rate of a role's parameters in a stage; every strategy says its own."""
        raise NotImplementedError

    def scale_of(self, place: Place, progress: Progress) -> float:
        """Return the same for every tensor of a role in a stage; a strategy of the grain `tensor` tells them apart."""
        return self.scale(place.stage, place.role, progress)

    def known(self, progress: Progress) -> bool:
        """Return that all is settled before training, by default."""
        del progress
        return True

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Return what this strategy asks of a network or a run that does not have it; nothing, by default."""
        del outline, epochs
        return []


def beyond(k: int, outline: Outline) -> list[str]:
    """Refuse a number of stages, besides the head, that is more than a network has."""
    below = len(outline.stages) - 1
    return [f"freeze.k: the network has {counted(below, 'stage')} below its head, got {k}"] if k > below else []


def with_norm_policy(strategy: Strategy, scale: float, role: Role) -> float:
    """Return a strategy's factor with its policy for normalisation layers applied."""
    if role in NORMS and strategy.norm_affine != "follow":
        return 0.0 if strategy.norm_affine == "frozen" else scale or 1.0
    return scale
