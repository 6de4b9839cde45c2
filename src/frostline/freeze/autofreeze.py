"""Stages freeze from the input on as their gradients stop changing."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import numpy as np
from annotated_types import Ge, Le
from torch import Tensor

from frostline.depth import Depth, Outline
from frostline.freeze.adaptive import Adaptive, Gradients, of_stages
from frostline.freeze.strategy import Clock, Decision


@dataclass(frozen=True, kw_only=True)
class AutoFreeze(Adaptive):
    """Freeze more of the first stages after each interval (Liu, Agarwal and Venkataraman 2021, arXiv:2102.01386).

    The gradients of an interval's steps are summed with their signs; a stage's number is the L1 norm of that sum. The
    stages that still train are frozen from the input on, up to the first whose number has changed, relative to the
    interval before, at least as much as the `percentile`-th percentile of them. They are compared with each other only,
    so that stages freeze whether they have converged or not. The stem, in the paper the embeddings, has no number and
    freezes with the first stage; the head never does. Each freeze starts the optimizer anew, as published.

    Attributes:
        intervals: Intervals of the run; the first two show changes only.
        percentile: Of the relative changes.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(AutoFreeze(intervals=4), epochs=8))
    epoch 01234567
    stem  ##??????
    body  ##??????
    head  ##??????
    """

    clock: ClassVar[Clock] = "step"

    intervals: Annotated[int, Ge(2)] = 20
    percentile: Annotated[float, Ge(0), Le(100)] = 50.0

    @property
    def fresh_state(self) -> Literal["change"]:
        """Start the optimizer anew with each freeze."""
        return "change"

    def moments(self, *, epochs: int, steps: int) -> Sequence[int]:
        """Return the end of each interval but the last."""
        return sorted({steps * interval // self.intervals for interval in range(1, self.intervals)} - {0, steps})

    def signals(
        self, gradients: Iterable[Gradients], weights: Mapping[str, Tensor], outline: Outline
    ) -> dict[str, float]:
        """Return the L1 norm of each stage's summed gradient."""
        (total,) = gradients
        parts = of_stages(outline)
        return {stage: sum(float(total[name].abs().sum()) for name in names) for stage, names in parts.items()}

    def decide(self, signals: Mapping[str, float], outline: Outline, past: Sequence[Decision]) -> dict[str, float]:
        """Return 0 for the stages that are frozen from now on and 1 for the others."""
        first = _first_active(outline, past)
        if past:
            first = self._thaw_line(first, signals, past[-1].signals, outline.stages)
        return {place.name: float(place.stage.index >= first) for place in outline.places}

    def _thaw_line(
        self, first: int, now: Mapping[str, float], before: Mapping[str, float], stages: Sequence[Depth]
    ) -> int:
        """Return the place of the first stage that goes on; where a number is none, nothing freezes."""
        ranked = [stage for stage in stages if stage.from_head and stage.index >= max(first, 1)]
        changes = [_change(before[stage.name], now[stage.name]) for stage in ranked]
        if not ranked or not np.isfinite(changes).all():
            return first
        bar = np.percentile(changes, self.percentile)
        stays = next(stage.index for stage, change in zip(ranked, changes, strict=True) if change >= bar)
        return first if stays == ranked[0].index else stays


def _first_active(outline: Outline, past: Sequence[Decision]) -> int:
    if not past:
        return 0
    return min(place.stage.index for place in outline.places if past[-1].scales[place.name])


def _change(before: float, now: float) -> float:
    """Return the relative change; of nothing, any change is without bounds."""
    return abs(before - now) / before if before else float(now != 0) * float(np.finfo(float).max)
