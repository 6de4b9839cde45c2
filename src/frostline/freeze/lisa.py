"""A few stages drawn at random train at a time."""

from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Annotated, ClassVar

from annotated_types import Ge

from frostline.depth import Depth, Outline, Role
from frostline.errors import counted
from frostline.freeze.strategy import Clock, FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Lisa(FreezeStrategy):
    """Train stem, head and `active` stages drawn every `interval` steps (Pan et al. 2024, arXiv:2403.17919, alg. 1).

    Defaults are LMFlow's. A stage that is drawn starts with an empty
    optimizer state, as in the paper, where each interval was a run of its own.

    Attributes:
        seed: What the draws follow.
        active: Stages between stem and head that train at a time.
        interval: Optimizer steps from one draw to the next.

    >>> from frostline.freeze.drawing import depths, draw
    >>> print(draw(Lisa(seed=0, active=1, interval=100), epochs=8, stages=depths(["stem", "a", "b", "c", "head"])))
    epoch 01234567
    stem  ########
    a     .#.#..#.
    b     .....#.#
    c     #.#.#...
    head  ########
    """

    clock: ClassVar[Clock] = "step"

    seed: int
    active: Annotated[int, Ge(0)] = 2
    interval: Annotated[int, Ge(1)] = 20

    def scale(self, stage: Depth, role: Role, progress: Progress) -> float:
        """Return 1 for stem and head, and for the stages drawn for this interval."""
        if stage.index == 0 or stage.from_head == 0:
            return 1.0
        return float(stage.index in _drawn(self.seed, progress.step // self.interval, self.active, stage.count))

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse to draw more stages than there are."""
        between = max(0, len(outline.stages) - 2)
        if self.active <= between:
            return []
        return [f"freeze.active: the network has {counted(between, 'stage')} between stem and head, got {self.active}"]


@lru_cache(maxsize=64)
def _drawn(seed: int, interval: int, active: int, count: int) -> frozenset[int]:
    return frozenset(Random(f"lisa/{seed}/{interval}").sample(range(1, count - 1), active))  # noqa: S311 (no secret)
