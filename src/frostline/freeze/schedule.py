"""Phases in a list: what trains in each, from which epoch or after which plateau of validation."""

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, ClassVar

from annotated_types import MinLen

from frostline.depth import Grain, Outline, Place
from frostline.errors import counted
from frostline.freeze.phases import Phase
from frostline.freeze.strategy import FreezeStrategy, Progress


@dataclass(frozen=True, kw_only=True)
class Schedule(FreezeStrategy):
    """Train what each phase names, one phase after the other; phases may widen, narrow, freeze again and repeat.

    A phase lasts one epoch at least. Which one an epoch is in is told anew from the validations before it, so that a
    run that was cut off goes on in the same one.

    Attributes:
        phases: In order; the first begins with the run, each other at an epoch, at a plateau, or at whichever is first.

    >>> from frostline.freeze.drawing import draw
    >>> from frostline.freeze.phases import Plateau
    >>> head, body = Phase(train=["head"]), Phase(train=["head", "body"], epoch=2, rate=[1.0, 0.1])
    >>> print(draw(Schedule(phases=[head, body, Phase(train=["all"], plateau=Plateau(patience=2))]), epochs=8))
    epoch 01234567
    stem  .....???
    body  ..+++???
    head  #####???
    """

    grain: ClassVar[Grain] = "tensor"
    key: ClassVar[str] = "freeze.phases"

    phases: Annotated[Sequence[Phase], MinLen(1)]

    def __post_init__(self) -> None:
        """Take phases as a config writes them."""
        phases = [Phase(**phase) if isinstance(phase, Mapping) else phase for phase in self.phases]
        object.__setattr__(self, "phases", tuple(phases))

    @property
    def monitor(self) -> str | None:
        """The metric that phases wait for, if any does."""
        return next((phase.plateau.metric for phase in self.phases if phase.plateau is not None), None)

    @property
    def content(self) -> str:
        """The phases, which may have come from a file."""
        return repr(self.phases)

    @property
    def announcements(self) -> Sequence[str]:
        """What each phase waits for whose beginning is decided by validation."""
        return [
            f"phase {number} ({', '.join(phase.train)}) begins when {phase.plateau}"
            + ("" if phase.epoch is None else f", at epoch {phase.epoch} at the latest")
            for number, phase in enumerate(self.phases)
            if phase.plateau is not None
        ]

    def scale_of(self, place: Place, progress: Progress) -> float:
        """Return what the phase of this epoch says."""
        return self.phases[self._number(progress)].scale(place)

    def known(self, progress: Progress) -> bool:
        """Tell whether no validation that is still to come could have begun another phase by this epoch."""
        return _all_seen(progress) or self._number(progress) == self._number(progress, soonest=True)

    def _number(self, progress: Progress, *, soonest: bool = False) -> int:
        return bisect_right(self._starts(progress.monitored, soonest=soonest), progress.epoch) - 1

    def _starts(self, monitored: Mapping[int, float], *, soonest: bool) -> list[float]:
        starts = [0.0]
        for phase in self.phases[1:]:
            starts.append(phase.start(monitored, before=starts[-1], soonest=soonest))
        return starts

    def problems(self, outline: Outline, epochs: int) -> list[str]:
        """Refuse phases that come in no order or never, and selectors that take nothing."""
        return [f"{self.key}{problem}" for problem in (*self._problems_of_time(epochs), *self._problems_of(outline))]

    def _problems_of(self, outline: Outline) -> Iterator[str]:
        said = set()
        for number, phase in enumerate(self.phases):
            for problem in phase.problems(outline):
                if problem not in said:
                    yield f".{number}.{problem}"
                said.add(problem)

    def _problems_of_time(self, epochs: int) -> list[str]:
        found = [*self._problems_of_the_first(), *self._problems_of_the_order(), *self._problems_of_metrics()]
        return found or list(self._problems_of_the_end(epochs))

    def _problems_of_the_first(self) -> Iterator[str]:
        first = self.phases[0]
        if first.plateau is not None:
            yield ".0.plateau: the first phase begins with the run; there is nothing to wait for"
        if first.epoch:
            yield f".0.epoch: the first phase begins at epoch 0, got {first.epoch}"

    def _problems_of_the_order(self) -> Iterator[str]:
        for number, phase in enumerate(self.phases[1:], start=1):
            if phase.epoch is None and phase.plateau is None:
                yield f".{number}: say when it begins, by epoch or by plateau"
        dated = [
            (number, phase.epoch or 0)
            for number, phase in enumerate(self.phases)
            if number == 0 or phase.epoch is not None
        ]
        for (before, earlier), (number, epoch) in pairwise(dated):
            if epoch <= earlier:
                yield f".{number}.epoch: should be more than the {earlier} of phase {before}, got {epoch}"

    def _problems_of_metrics(self) -> Iterator[str]:
        for number, phase in enumerate(self.phases):
            metric = self.monitor if phase.plateau is None else phase.plateau.metric
            if metric is not None and phase.plateau is not None and not metric.startswith("val/"):
                yield f".{number}.plateau.metric: should be one of validation, such as val/loss; got '{metric}'"
            if metric != self.monitor:
                yield f".{number}.plateau.metric: another phase waits for '{self.monitor}'; let all wait for one metric"

    def _problems_of_the_end(self, epochs: int) -> Iterator[str]:
        for number, start in enumerate(self._starts({}, soonest=True)):
            if epochs and start >= epochs:
                begins = f"begins at epoch {math.trunc(start)} at the earliest"
                yield f".{number}: {begins}, and the run has {counted(epochs, 'epoch')}"


def _all_seen(progress: Progress) -> bool:
    """Tell whether every validation before this epoch is known; they come at the end of each n-th epoch."""
    every = min(progress.monitored, default=0) + 1
    return len(progress.monitored) >= progress.epoch // every
