"""What strategies share that decide from gradients: when they look, at what, and that they hold to a decision."""

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from frostline.depth import Grain, Outline, Place
from frostline.freeze.strategy import Decision, FreezeStrategy, Progress

Gradients = Mapping[str, Tensor]
"""A gradient for each parameter, by name."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """A look at gradients besides training: at the weights as they are, in evaluation mode, moving nothing.

    Attributes:
        count: How many gradients, from the first training batches of the epoch.
        single: Whether each is of one example instead of a batch.
    """

    count: int
    single: bool = False


@dataclass(frozen=True, kw_only=True)
class Adaptive(FreezeStrategy):
    """A strategy that decides from gradients, at moments that are fixed beforehand, and holds to each decision.

    Decisions are part of the checkpoint: a resumed run takes none again.
    """

    grain: ClassVar[Grain] = "tensor"

    @property
    def fresh_state(self) -> Literal["never", "change", "decision"]:
        """When the optimizer's state is dropped: where a decision changes a factor, or with each decision."""
        return "never"

    @property
    def probe(self) -> Probe | None:
        """What to look at when a decision is due; None for the sum of the gradients trained on since the last."""
        return None

    def moments(self, *, epochs: int, steps: int) -> Sequence[int]:
        """Return the optimizer steps before which a decision is taken, in order.

        Args:
            epochs: Epochs of the run.
            steps: Optimizer steps of the run.
        """
        raise NotImplementedError

    def signals(
        self, gradients: Iterable[Gradients], weights: Mapping[str, Tensor], outline: Outline
    ) -> dict[str, float]:
        """Return what the gradients say, a number for each tensor or for each stage, by name.

        Args:
            gradients: Those that `probe` asks for, one after the other; each of the shape of its weight.
            weights: The parameters now, by name.
            outline: Stages and places of the network.
        """
        raise NotImplementedError

    def decide(self, signals: Mapping[str, float], outline: Outline, past: Sequence[Decision]) -> dict[str, float]:
        """Return the factor on the learning rate of each tensor from now on, by name.

        Args:
            signals: What was measured now.
            outline: Stages and places of the network.
            past: Earlier decisions of this run.
        """
        raise NotImplementedError

    def scale_of(self, place: Place, progress: Progress) -> float:
        """Return what was decided last; before the first decision everything trains."""
        return progress.decisions[-1].scales.get(place.name, 0.0) if progress.decisions else 1.0

    def due(self, progress: Progress) -> bool:
        """Tell whether a decision belongs before this optimizer step that has not been taken."""
        moments = self.moments(epochs=progress.epochs, steps=progress.steps)
        return bisect_right(moments, progress.step) > len(progress.decisions)

    def known(self, progress: Progress) -> bool:
        """Tell whether every decision up to now has been taken."""
        return not self.due(progress)


def first_steps(*, epochs: int, steps: int) -> range:
    """Return the first optimizer step of each epoch."""
    return range(0, steps, max(1, steps // max(1, epochs)))


def of_stages(outline: Outline) -> dict[str, list[str]]:
    """Return the names of each stage's parameters, by the stage's name."""
    return {stage.name: [p.name for p in outline.places if p.stage == stage] for stage in outline.stages}


def mean_of(rounds: Iterable[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the mean of each number over several rounds, by name; the numbers stay on their device until the end."""
    kept = list(rounds)
    return {name: float(torch.stack([numbers[name] for numbers in kept]).mean()) for name in kept[0]}
