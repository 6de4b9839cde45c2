"""Tensors train whose gradient is more signal than noise."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from frostline.depth import NORMS, Outline
from frostline.freeze.adaptive import Adaptive, Gradients, Probe, first_steps, mean_of
from frostline.freeze.strategy import Decision

_TINY = 1e-8
"""What the authors add to a variance."""

THRESHOLD = {"code": 0.95, "paper": 0.5}
"""From which ratio on a tensor trains: the code's constant; the paper tunes its own on validation."""


@dataclass(frozen=True, kw_only=True)
class AutoSnr(Adaptive):
    """Freeze what has a low gradient signal-to-noise ratio, by epoch (Lee et al. 2023, arXiv:2210.11466, section 5).

    What the authors' code does and what the paper says differ:

    - `code`: the mean of g^2 / var(g), with the variance along the tensor's first dimension, averaged over `batches`
      batches and compared as it is; normalisation layers never train; the optimizer starts anew with each epoch.
    - `paper`: the mean of (E g)^2 / Var g over `batches` examples, divided by the greatest of the network; the
      optimizer's moments are kept.

    Where nothing reaches the threshold, the head trains: a step has to train something.

    Attributes:
        as_in: Which of the two.
        batches: Training batches, in the paper's sense single examples, that are looked at.
        threshold: The least ratio that trains; by default the code's .95, or .5 in the paper's sense, where it is a
            hyperparameter to be tuned.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(AutoSnr(), epochs=6))
    epoch 012345
    stem  ??????
    body  ??????
    head  ??????
    """

    as_in: Literal["code", "paper"] = "code"
    batches: Annotated[int, Ge(2)] = 5
    threshold: Annotated[float, Ge(0)] | None = None

    @property
    def fresh_state(self) -> Literal["never", "decision"]:
        """Start the optimizer anew as the code does, which builds one for each epoch."""
        return "decision" if self.as_in == "code" else "never"

    @property
    def probe(self) -> Probe:
        """Look at the epoch's first batches, or at their first examples one by one."""
        return Probe(count=self.batches, single=self.as_in == "paper")

    def moments(self, *, epochs: int, steps: int) -> Sequence[int]:
        """Return the first step of each epoch."""
        return first_steps(epochs=epochs, steps=steps)

    def signals(
        self, gradients: Iterable[Gradients], weights: Mapping[str, Tensor], outline: Outline
    ) -> dict[str, float]:
        """Return the ratio of each tensor."""
        if self.as_in == "paper":
            return _across_examples(gradients)
        names = [place.name for place in outline.places if place.role not in NORMS]
        return mean_of({name: _within(gradient[name]) for name in names} for gradient in gradients)

    def decide(self, signals: Mapping[str, float], outline: Outline, past: Sequence[Decision]) -> dict[str, float]:
        """Return 1 for what reaches the threshold and 0 for the rest."""
        threshold = THRESHOLD[self.as_in] if self.threshold is None else self.threshold
        greatest = max(signals.values(), default=0.0) if self.as_in == "paper" else 1.0
        ratios = {name: number / (greatest or 1.0) for name, number in signals.items()}
        scales = {place.name: float(ratios.get(place.name, -1.0) >= threshold) for place in outline.places}
        if any(scales.values()):
            return scales
        return {place.name: float(place.stage.from_head == 0) for place in outline.places}


def _within(gradient: Tensor) -> Tensor:
    """Return the ratio as in the code; a single row has no variance and trains, as there, whatever the threshold."""
    if gradient.ndim == 0 or len(gradient) == 1:
        return torch.full((), inf, device=gradient.device)
    return (gradient.square() / (gradient.var(dim=0) + _TINY)).mean()


def _across_examples(gradients: Iterable[Gradients]) -> dict[str, float]:
    """Return the ratio as in the paper, over examples; only sums are held, in double precision."""
    total: dict[str, Tensor] = {}
    squares: dict[str, Tensor] = {}
    count = 0
    for gradient in gradients:
        count += 1
        for name, value in gradient.items():
            total[name] = total.get(name, 0) + value.double()
            squares[name] = squares.get(name, 0) + value.double().square()
    return {name: float(_ratio(total[name] / count, squares[name] / count, count)) for name in total}


def _ratio(mean: Tensor, square: Tensor, count: int) -> Tensor:
    """Return the mean ratio of what has a gradient; it is the same at every scale of the loss."""
    signal = mean.square()
    variance = (square - signal) * count / (count - 1)
    ratio = signal / torch.maximum(variance, signal * torch.finfo(signal.dtype).eps)  # no more than doubles can tell
    return torch.nanmean(ratio).nan_to_num(0.0)
