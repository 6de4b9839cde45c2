"""Each tensor learns as fast as its gradient is large beside it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from torch import Tensor

from frostline.depth import NORMS, Outline
from frostline.freeze.adaptive import Adaptive, Gradients, Probe, first_steps, mean_of, of_stages
from frostline.freeze.strategy import Decision


@dataclass(frozen=True, kw_only=True)
class AutoRgn(Adaptive):
    """Scale rates by the relative gradient norm |g| / |w|, by epoch (Lee et al. 2023, arXiv:2210.11466, section 5).

    What the authors' code does and what the paper says differ:

    - `code`: a number for each tensor, divided by the greatest; normalisation layers never train; the optimizer starts
      anew with each epoch.
    - `paper`: a number for each stage, divided by the greatest; the optimizer's moments are kept.

    The norms are averaged over `batches` training batches in evaluation mode. A tensor of zeros (a new bias) has no
    relative norm and learns at the full rate.

    Attributes:
        as_in: Which of the two.
        batches: Training batches that are looked at.

    >>> from frostline.freeze.drawing import draw
    >>> print(draw(AutoRgn(), epochs=6))
    epoch 012345
    stem  ??????
    body  ??????
    head  ??????
    """

    as_in: Literal["code", "paper"] = "code"
    batches: Annotated[int, Ge(1)] = 5

    @property
    def fresh_state(self) -> Literal["never", "decision"]:
        """Start the optimizer anew as the code does, which builds one for each epoch."""
        return "decision" if self.as_in == "code" else "never"

    @property
    def probe(self) -> Probe:
        """Look at the epoch's first batches."""
        return Probe(count=self.batches)

    def moments(self, *, epochs: int, steps: int) -> Sequence[int]:
        """Return the first step of each epoch."""
        return first_steps(epochs=epochs, steps=steps)

    def signals(
        self, gradients: Iterable[Gradients], weights: Mapping[str, Tensor], outline: Outline
    ) -> dict[str, float]:
        """Return the mean relative norm of each tensor, normalisation layers left out, or of each stage."""
        if self.as_in == "paper":
            parts = of_stages(outline)
        else:
            parts = {place.name: [place.name] for place in outline.places if place.role not in NORMS}
        return mean_of(
            {part: _norm(gradient, names) / _norm(weights, names) for part, names in parts.items()}
            for gradient in gradients
        )

    def decide(self, signals: Mapping[str, float], outline: Outline, past: Sequence[Decision]) -> dict[str, float]:
        """Return each number as a share of the greatest."""
        greatest = max((number for number in signals.values() if isfinite(number)), default=0.0)
        shares = {part: n / greatest if isfinite(n) and greatest else 1.0 for part, n in signals.items()}
        return {place.name: shares.get(place.name, shares.get(place.stage.name, 0.0)) for place in outline.places}


def _norm(tensors: Mapping[str, Tensor], names: Sequence[str]) -> Tensor:
    return torch.stack([tensors[name].square().sum() for name in names]).sum().sqrt()
