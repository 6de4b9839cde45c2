"""Where a parameter is and what it does: the words that networks and freeze strategies share."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

Grain = Literal["role", "tensor"]
"""What one answer of a strategy is for: all parameters of a role in a stage, or each tensor by itself."""


class Role(StrEnum):
    """What a parameter does in its module; strategies that choose by kind choose by role.

    Scale and shift of a normalisation layer are told apart, because a shift is a bias to those who tune biases.
    """

    WEIGHT = "weight"
    BIAS = "bias"
    NORM = "norm"
    NORM_BIAS = "norm_bias"
    EMBEDDING = "embedding"
    ADAPTER = "adapter"


NORMS = frozenset({Role.NORM, Role.NORM_BIAS})
"""The roles of a normalisation layer's parameters."""


@dataclass(frozen=True, kw_only=True)
class Depth:
    """The place of one stage among the stages of a network, in forward order.

    Attributes:
        name: The stage's name: `stem`, `body1`, ..., `head`.
        index: Stages between the input and this one; 0 is the stem.
        count: Stages of the network.
    """

    name: str
    index: int
    count: int

    @property
    def from_head(self) -> int:
        """Stages between this one and the output; 0 is the head."""
        return self.count - 1 - self.index


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a parameter is and what it does.

    Attributes:
        stage: Its stage.
        role: Its role.
        name: Its qualified name; empty where all parameters of that role in that stage are meant.
    """

    stage: Depth
    role: Role
    name: str = ""


@dataclass(frozen=True, kw_only=True)
class Outline:
    """What a strategy may know of a network.

    Attributes:
        stages: The stages, from the input to the output.
        places: Every parameter that its author left free, in the order of the stages.
    """

    stages: Sequence[Depth]
    places: Sequence[Place]
