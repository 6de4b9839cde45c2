"""The phases of a schedule: what trains in each, how fast, and when it begins."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen

from frostline.depth import Outline, Place
from frostline.freeze.selector import problem_of, selects

Rate = Annotated[float, Gt(0)]


@dataclass(frozen=True, kw_only=True)
class Plateau:
    """A metric of validation that has stopped improving, judged as Lightning's EarlyStopping does.

    Attributes:
        metric: Its name; of several validations in an epoch the last counts.
        patience: Validations in a row without an improvement on the best.
        min_delta: What is gained at least by an improvement.
        mode: Whether less or more is better; None for less of what is called a loss or an error, more of all else.
    """

    metric: str = "val/loss"
    patience: Annotated[int, Ge(1)] = 3
    min_delta: Annotated[float, Ge(0)] = 0.0
    mode: Literal["min", "max"] | None = None

    def __str__(self) -> str:
        """Say what is waited for."""
        delta = f" by {self.min_delta:g}" if self.min_delta else ""
        times = f"{self.patience} validation{'s' if self.patience > 1 else ''}"
        return f"{self.metric} has not improved{delta} for {times}"

    def end(self, monitored: Mapping[int, float], *, since: float, soonest: bool) -> float:
        """Return the epoch before which the plateau has been seen; infinity where it has not.

        Args:
            monitored: The metric by epoch.
            since: The epoch from which on it counts; its first value is the first best.
            soonest: Whether values still to come are taken for no improvement.
        """
        best, waited, upcoming = math.inf, -1, since
        for epoch in sorted(epoch for epoch in monitored if epoch >= since):
            loss = self._loss(monitored[epoch])
            improved = waited < 0 or loss + self.min_delta < best
            best, waited, upcoming = (loss, 0, epoch + 1) if improved else (best, waited + 1, epoch + 1)
            if waited == self.patience:
                return upcoming
        return upcoming + self.patience - waited if soonest else math.inf

    def _loss(self, value: float) -> float:
        """Return what is to become less; what is not a number is the worst."""
        falls = self.mode == "min" or (self.mode is None and self.metric.endswith(("loss", "error")))
        return math.inf if math.isnan(value) else value if falls else -value


@dataclass(frozen=True, kw_only=True)
class Phase:
    """What trains from some moment on, until the next phase begins; whatever is not named is frozen.

    Attributes:
        train: Selectors: `all`, a stage, `stage.role`, `role:norm`, or `re:` and a pattern of a whole parameter name.
        epoch: The epoch from which it holds, from 0; beside a plateau, the latest.
        plateau: What it waits for, counted from the beginning of the phase before it.
        rate: Factor on the learning rate, or one for each selector.
    """

    train: Annotated[Sequence[str], MinLen(1)]
    epoch: Annotated[int, Ge(0)] | None = None
    plateau: Plateau | None = None
    rate: Rate | Sequence[Rate] = 1.0

    def __post_init__(self) -> None:
        """Take a plateau as a config writes it."""
        given: Any = self.plateau
        if isinstance(given, Mapping):
            object.__setattr__(self, "plateau", Plateau(**given))

    @property
    def rates(self) -> Sequence[float]:
        """The factor of each selector."""
        return self.rate if isinstance(self.rate, Sequence) else [self.rate] * len(self.train)

    def scale(self, place: Place) -> float:
        """Return the factor of the first selector that takes this place; 0 where none does."""
        pairs = zip(self.train, self.rates, strict=True)
        return next((rate for selector, rate in pairs if selects(selector, place)), 0.0)

    def start(self, monitored: Mapping[int, float], *, before: float, soonest: bool) -> float:
        """Return the first epoch of this phase; infinity where that is not in sight.

        Args:
            monitored: The metric that is waited for, by epoch.
            before: The first epoch of the phase before, which has at least that one.
            soonest: Whether validations still to come are taken for no improvement.
        """
        ends = [float(self.epoch)] if self.epoch is not None else []
        if self.plateau is not None:
            ends.append(self.plateau.end(monitored, since=before, soonest=soonest))
        return max(before + 1, min(ends, default=math.inf))

    def problems(self, outline: Outline) -> Iterator[str]:
        """Yield what this phase asks of a network that does not have it, as `key: sentence`."""
        if len(self.rates) != len(self.train):
            yield f"rate: should be one number, or one for each of the {len(self.train)} selectors; got {self.rate}"
            return
        found = [problem_of(selector, outline) for selector in self.train]
        yield from (f"train: {sentence}" for sentence in found if sentence)
        if not any(found) and (place := next((p for p in outline.places if self._is_torn(p)), None)):
            yield f"rate: '{place.name}' is taken by selectors of different rates; let one rule take each parameter"

    def _is_torn(self, place: Place) -> bool:
        pairs = zip(self.train, self.rates, strict=True)
        return len({rate for selector, rate in pairs if selects(selector, place)}) > 1
